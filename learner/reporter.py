"""What the learner tells the run of itself: events as they come, a record of each step, and a last one."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from ..broker.bulletin import TOLD, Bulletin
from ..broker.lane import Delivery, Depth

logger = logging.getLogger(__name__)


class Reporter:
    """Posts records of a learner of that epoch; see launch/records/tally.py for the kinds."""

    def __init__(self, bulletin: Bulletin, *, epoch: int, steps: int) -> None:
        self._bulletin = bulletin
        self._epoch = epoch
        self._steps = steps

    def event(self, text: str, level: str = "info") -> None:
        """Something that a user should read: info, warning or error."""
        logger.info("%s", text, extra=TOLD)
        self._bulletin.report({"kind": "event", "time": time.time(), "level": level, "text": f"learner: {text}"})

    def warn(self, text: str) -> None:
        """An event that is a warning."""
        self.event(text, level="warning")

    def evaluation(self, record: dict[str, Any]) -> None:
        """The round of an Evaluator."""
        self._bulletin.report(record)

    def step(self, step: int, version: int, learned: Sequence[Delivery], measured: dict[str, Any]) -> None:
        """A step that was taken: what it left, the groups it was taken on, and all that was measured."""
        record: dict[str, Any] = {
            "kind": "step",
            "time": time.time(),
            "step": step,
            "steps": self._steps,
            "version": version,
            "epoch": self._epoch,
            "prompt_ids": [delivery.group.prompt_id for delivery in learned],
        }
        self._bulletin.report(record | measured)

    def final(self, step: int, version: int, *, depth: Depth, **counts: int) -> None:
        """Where the learner ended, with what the lane holds then."""
        self._bulletin.report(
            {
                "kind": "final",
                "time": time.time(),
                "finished": step >= self._steps,
                "step": step,
                "version": version,
                "dead_letters": depth.dead,
                **counts,
            }
        )
