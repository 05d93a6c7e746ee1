"""Who drives a run and how far that is, as its driver says it; and what is asked of the driver from elsewhere.

An order (Bulletin) is the driver's to give. Whoever else wants a run to stop asks its driver, by name: what was asked of one
that has ended is not heard by the next.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from . import scripts
from .client import Client
from .keys import Keys

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES = 65_536
MAX_ERROR = 8_000
ASKED_S = 24 * 3600
FIELD = "driver"

STARTING, RUNNING, DRAINING = UNDER_WAY = ("starting", "running", "draining")
DONE, FAILED, STOPPED = ENDED = ("done", "failed", "stopped")
STOP, STOP_NOW = ASKS = ("stop", "stop now")


@dataclass(frozen=True, slots=True)
class Driving:
    """A driver as it describes itself. `started_at` is in Unix seconds by its own clock.

    invocation: its name, which no other driver has.
    state: one of UNDER_WAY or, once it has ended, one of ENDED, with its exit code and the error that it ended on.
    directory: the run directory, on its host.
    draws: whether the policy is one of images.
    guard: the process on its host that starts another driver in its place if it is killed; None if there is none.
    step, steps, reward, staleness: of the newest step that it has heard of, with the number of all.
    """

    invocation: str
    run: str
    state: str
    pid: int
    host: str
    started_at: float
    directory: str
    draws: bool = False
    guard: int | None = None
    step: int | None = None
    steps: int | None = None
    reward: float | None = None
    staleness: float | None = None
    exit_code: int | None = None
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has said that it ended; one that was killed never does."""
        return self.state in ENDED

    def to_json(self) -> str:
        return json.dumps(asdict(replace(self, error=self.error[:MAX_ERROR])))

    @classmethod
    def of_json(cls, text: str | bytes) -> "Driving | None":
        """What `to_json` made; None, and a warning, for anything else."""
        try:
            told = json.loads(text[:MAX_BYTES])
            driving = cls(
                invocation=str(told["invocation"]),
                run=str(told["run"]),
                state=str(told["state"]),
                pid=int(told["pid"]),
                host=str(told["host"]),
                started_at=float(told["started_at"]),
                directory=str(told["directory"]),
                draws=bool(told["draws"]),
                guard=_or_none(int, told["guard"]),
                step=_or_none(int, told["step"]),
                steps=_or_none(int, told["steps"]),
                reward=_or_none(float, told["reward"]),
                staleness=_or_none(float, told["staleness"]),
                exit_code=_or_none(int, told["exit_code"]),
                error=str(told["error"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            driving = None
        if driving is None or driving.state not in UNDER_WAY + ENDED:
            logger.warning("what is no description of a driver was left out: %.200r", text)
            return None
        return driving


class Helm:
    """Where a run's driver says how it does, and hears what is asked of it."""

    def __init__(self, client: Client, run: str) -> None:
        keys = Keys(run)
        self._client: Any = client
        self._driver = keys.driver
        self._asked = keys.asked
        self._beat = client.register_script(scripts.BEAT)

    def tell(self, driving: Driving) -> None:
        """Say, as the driver, how it is; again and again, as one that has not been heard for a while is gone."""
        self._beat(keys=[self._driver], args=[FIELD, driving.to_json()])

    def heard(self) -> tuple[Driving, float] | None:
        """What the newest driver said last, and how many seconds ago by the server's clock; None if there was none."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hget(self._driver, FIELD)
            (seconds, microseconds), value = pipe.execute()
        at_ms, _, described = (value or b"")[:MAX_BYTES].partition(b" ")
        driving = Driving.of_json(described) if at_ms.isdigit() and len(at_ms) < 20 else None
        if driving is None:
            return None
        return driving, max(0.0, seconds + microseconds / 1e6 - int(at_ms) / 1000)

    def ask(self, what: str, invocation: str) -> None:
        """Ask that driver for one of ASKS; again and again until it is seen to heed, as Redis may lose its last second."""
        self._client.set(self._asked, f"{invocation} {what}", ex=ASKED_S)

    def asked(self, invocation: str) -> str | None:
        """What is asked of that driver, one of ASKS."""
        whom, _, what = (self._client.get(self._asked) or b"").decode(errors="replace").partition(" ")
        return what if whom == invocation and what in ASKS else None


def _or_none(kind: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else kind(value)
