"""Measures who waits for whom in a run, and says now and then how many workers it should have."""

from ..driver.progress import Status
from ..records.tally import Record
from .autoscale import AutoscaleConfig, Load, decide

STEPS = 3
"""Steps that a measurement takes at least."""


class Balance:
    """Begins to measure anew after every decision, and whenever the workers are not all at work."""

    def __init__(self, config: AutoscaleConfig) -> None:
        self._config = config
        self._status = Status()
        self._since: float | None = None

    def add(self, record: Record) -> None:
        """Take in one record of any kind."""
        self._status.add(record)

    def wanted(self, workers: int, *, steady: bool, steps_ready: float, now: float) -> int:
        """How many workers there should be: as many as there are, unless a measurement has just ended.

        workers: how many there are, or soon will be. steady: whether all of them are at work. steps_ready: as Load has it.
        now: in seconds, by a clock that only rises.
        """
        limited = min(max(workers, self._config.min), self._config.max)
        if limited != workers or not steady:
            self._since = None
            return limited
        if self._since is None:
            self._since, self._status = now, Status()
        if now - self._since < self._config.every_s or len(self._status.steps) < STEPS:
            return workers
        load = Load(self._status.per_step_second("wait_s"), self._status.rollout_waits(), steps_ready)
        self._since = None
        return decide(workers, load, self._config)
