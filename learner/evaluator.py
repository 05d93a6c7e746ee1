"""Held-out rows, answered by the rollout workers beside the training prompts."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..broker.lane import Lane
from ..broker.trajectory import Group, Prompt

logger = logging.getLogger(__name__)


Examine = Callable[[int, Mapping[int, Group[Any]]], dict[str, Any]]
"""From the step that a round was begun after, and its groups by the number of their row, to further measurements."""


class Evaluator:
    """Issues the whole held-out set as one round at a time, and reports when its answers are in.

    The engines keep learning meanwhile, so an answer may span versions: the report names the oldest and the newest.
    """

    def __init__(
        self,
        lane: Lane,
        rows: list[dict[str, Any]],
        *,
        samples: int,
        epoch: int,
        report: Callable[[dict[str, Any]], None],
        warn: Callable[[str], None] = logger.warning,
        examine: Sequence[Examine] = (),
    ) -> None:
        """`report` is given the record of each round, and `warn` is told why one came to nothing; in another thread.

        Each of `examine` adds to a record what it finds; one that fails is warned of, and adds nothing.
        """
        self._lane = lane
        self._rows = rows
        self._samples = samples
        self._epoch = epoch
        self._report = report
        self._warn = warn
        self._examine = examine
        self._idle = threading.Event()
        self._idle.set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, *, step: int, version: int) -> bool:
        """Issue a round for weights of `version` or newer; False, and nothing done, while one is under way.

        Without rows there is nothing to do, and that is done at once.
        """
        if not self._rows:
            return True
        if not self._idle.is_set():
            return False
        first = self._lane.depth().issued
        prompts = [Prompt(first + i, version, self._samples, row) for i, row in enumerate(self._rows)]
        if self._lane.issue(prompts, after=first, epoch=self._epoch) != first + len(prompts):
            return False  # Redis came back older in between; the next round will do
        self._idle.clear()
        self._thread = threading.Thread(target=self._collect, args=(first, step), name="evaluator", daemon=True)
        self._thread.start()
        return True

    def finish(self, timeout_s: float) -> bool:
        """Wait for the round under way; False if it did not end in time."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _collect(self, first: int, step: int) -> None:
        try:
            rows = self._await_round(first)
            if rows:
                unanswered = {"unanswered": len(self._rows) - len(rows)}
                self._report(_record(rows.values(), step) | unanswered | self._found(step, rows))
        except Exception as error:
            logger.exception("the evaluation of step %d failed", step)
            self._warn(f"the evaluation of step {step} failed: {error}")
        finally:
            self._idle.set()

    def _found(self, step: int, rows: Mapping[int, Group[Any]]) -> dict[str, Any]:
        """What the examinations add: a reward that is known is reported, whatever becomes of them."""
        found: dict[str, Any] = {}
        for examine in self._examine:
            try:
                found |= examine(step, rows)
            except Exception as error:
                logger.exception("an examination of the evaluation of step %d failed", step)
                self._warn(f"the evaluation of step {step} is reported without all its measurements: {error}")
        return found

    def _await_round(self, first: int) -> dict[int, Group[Any]]:
        """The round's groups by the number of their row, all but those dead-lettered; empty if closed before they were in."""
        groups: dict[int, Group[Any]] = {}
        while not self._closed:  # always from the oldest: what was acknowledged may come back with an older Redis
            deliveries, _ = self._lane.take("0", count=len(self._rows), timeout_s=0.5)
            groups |= {d.group.prompt_id - first: d.group for d in deliveries if d.group.prompt_id >= first}
            self._lane.acknowledge([d.receipt for d in deliveries], epoch=self._epoch)
            if len(groups) == len(self._rows) or (not deliveries and self._is_empty()):
                return groups
        return {}

    def _is_empty(self) -> bool:
        """Whether nothing of the round is still to come."""
        depth = self._lane.depth()
        return depth.prompts == 0 and depth.groups == 0


def _record(groups: Iterable[Group[Any]], step: int) -> dict[str, Any]:
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    oldest, newest = zip(*(trajectory.version_span for trajectory in trajectories), strict=True)
    return {
        "kind": "eval",
        "time": time.time(),
        "step": step,
        "version_min": min(oldest),
        "version_max": max(newest),
        "samples": len(trajectories),
        "accuracy": float(np.mean([t.reward for t in trajectories])),
        "length_mean": float(np.mean([t.num_actions for t in trajectories])),
        "truncated_fraction": float(np.mean([t.truncated for t in trajectories])),
    }
