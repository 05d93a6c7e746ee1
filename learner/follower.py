"""A rank beside the learner that leads: it does with its shard what the leader does with its own, as it is told.

orders ─▶ learn | rename | weights ─▶ publish | checkpoint | archive | save_pretrained ─▶ … ─▶ end
"""

import contextlib
from pathlib import Path
from typing import Any

from torch import Tensor

from ..broker.client import Client
from ..broker.errors import TrainingError
from ..broker.meeting import Meeting
from ..broker.rollcall import Activity
from .checkpoint import CheckpointStore, LearnerState
from .contributor import Contributor
from .dataset import Dataset
from .muster import follow
from .orders import Order, Orders
from .pupil import Pupil
from .ranks import Ranks, blaming_others
from .settings import LearnerSettings


class Follower:
    """Follows a leader from where it begins to its end. It speaks with no one else, and knows nothing of the run."""

    def __init__(self, settings: LearnerSettings, client: Client, rank: int, activity: Activity | None = None) -> None:
        self._settings = settings
        self._meeting = Meeting(client, settings.run)
        self._rank = rank
        self._activity = activity or Activity()

    def run(self) -> None:
        """Until the leader says that it is over. Raises RoleDied once the leader is gone."""
        with blaming_others():
            ranks = follow(self._meeting, self._rank)
            orders = ranks.orders
            assert orders is not None
            shadow = Shadow(self._settings, ranks, **orders.take().values)
            while (order := orders.take()).name != "end":
                shadow.do(order)
                self._activity.mark(shadow.version)
            shadow.close()


class Shadow:
    """The pupil of a rank and what it has on the way, since the leader began at the checkpoint of `step`, 0 for none."""

    def __init__(self, settings: LearnerSettings, ranks: Ranks, *, step: int) -> None:
        self._checkpoints = CheckpointStore(settings.directory / "checkpoints", keep=settings.checkpoint.keep, archive_every=…)

