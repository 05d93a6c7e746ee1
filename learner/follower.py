"""A rank beside the learner that leads: it does with its shard what the leader does with its own, as it is told.

begin ─▶ learn | rename | weights ─▶ publish | checkpoint | archive | put_aside ─▶ … ─▶ settle ─▶ save_pretrained ─▶ end
"""

import contextlib
from pathlib import Path

from torch import Tensor

from ..broker.client import Client
from ..broker.errors import TrainingError
from ..broker.meeting import Meeting
from ..broker.rollcall import Activity
from .contributor import Contributor
from .dataset import Dataset
from .keeper import Keeper
from .muster import follow, leave
from .orders import Order
from .pupil import Pupil
from .ranks import LOOPBACK, Ranks
from .settings import LearnerSettings


class Follower:
    """Follows a leader from where it begins to its end. It speaks with no one else, and knows nothing of the run.

    The other ranks reach it at its `host`.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        client: Client,
        rank: int,
        activity: Activity | None = None,
        *,
        host: str = LOOPBACK,
    ) -> None:
        self._settings = settings
        self._host = host
        self._meeting = Meeting(client, settings.run)
        self._rank = rank
        self._activity = activity or Activity()

    def run(self) -> None:
        """Until the leader says that it is over. Raises RoleDied once the leader is gone."""
        ranks = follow(self._meeting, self._rank, host=self._host, directory=self._settings.directory)
        assert ranks.company is not None
        orders = ranks.company.orders
        shadow = Shadow(self._settings, ranks, step=_begun(orders.take()))
        while (order := orders.take()).name != "end":
            shadow.do(order)
            self._activity.mark(shadow.version)
        leave(ranks)


class Shadow:
    """The pupil of a rank and what it has on the way, since the leader began at the checkpoint of `step`, None for none."""

    def __init__(self, settings: LearnerSettings, ranks: Ranks, *, step: int | None) -> None:
        checkpoint = None if step is None else settings.checkpoints().load(step)
        self._pupil = Pupil(settings, Dataset(settings.dataset).identity, checkpoint, ranks)
        self._keeper = Keeper(settings, self._pupil, ranks, epoch=0, permit=_nothing)
        self._contributor = Contributor(ranks)
        self._weights: dict[str, Tensor] = {}

    @property
    def version(self) -> int:
        return self._pupil.version

    def do(self, order: Order) -> None:
        """What the leader is doing now; every order is given by the method that does it there."""
        given = order.values
        match order.name:
            case "learn":
                with contextlib.suppress(TrainingError):  # which the leader deals with
                    self._pupil.learn(order.groups)
            case "rename":
                self._pupil.rename(given["version"])
            case "weights":
                self._weights = self._pupil.weights(by_leader=given["by_leader"])
            case "publish":
                self._contributor.publish(given["version"], self._weights)
            case "checkpoint":
                snapshot = self._pupil.snapshot(self._weights, trained=[], epoch=0)
                self._keeper.checkpoint(snapshot, done=_nothing)
            case "archive":
                self._keeper.archive(self._weights)
            case "put_aside":
                self._keeper.put_aside(self._weights)
            case "settle":
                self._settle()
            case "save_pretrained":
                self._pupil.save_pretrained(Path(given["folder"]))
            case name:
                raise ValueError(f"the leader ordered {name!r}, which this rank knows nothing of")

    def _settle(self) -> None:
        """Until all that is on the way is written."""
        self._contributor.wait()
        self._keeper.wait()


def _begun(order: Order) -> int | None:
    """The step of the checkpoint that the leader begins at; None for none."""
    if order.name != "begin":
        raise ValueError(f"the leader ordered {order.name!r} before it had begun")
    step: int | None = order.values["step"]
    return step


def _nothing() -> None:
    """The leader alone asks for leave, and is told when it is done."""
