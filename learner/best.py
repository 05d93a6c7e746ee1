"""The weights of a run's best evaluations, kept for good.

    evaluation begins ─▶ .7.candidate/ ──its score──▶ best/step-00000030/ (state.json with the score, weights/), or gone

The engines are given newer weights while a round is answered (see Evaluator); those that are kept are the ones it began with.
"""

import math
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .checkpoint import CheckpointStore, LearnerState
from .saved import amend, discard, folder_of, give_name, read_state, saved_steps, sweep

BEST = "best"
SCORE = "score"


@dataclass(frozen=True, slots=True)
class Scored:
    """Weights that are kept, with their score; −inf if that cannot be read."""

    step: int
    score: float
    folder: Path


def ranking(checkpoints: Path) -> list[Scored]:
    """What is kept in a folder of checkpoints, the best first; of equal scores the earlier step."""
    kept = [Scored(step, _score(folder), folder) for step, folder in saved_steps(checkpoints / BEST).items()]
    return sorted(kept, key=lambda each: (-each.score, each.step))


class BestWeights:
    """Keeps the weights of the `keep` best evaluations of a run; with 0 it does nothing.

    A step that is evaluated again, by a learner that resumed before it, counts as it was the last time. Where there are
    several ranks, all call `put_aside` and the first alone the other methods.
    """

    def __init__(
        self, store: CheckpointStore, checkpoints: Path, *, keep: int, epoch: int, permit: Callable[[], None]
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._keep = keep
        self._permit = permit
        self._candidate = checkpoints / f".{epoch}.candidate"
        self._written: Future[None] | None = None

    def sweep(self) -> None:
        """Delete what earlier learners left without a score, or half deleted."""
        sweep(self._checkpoints, ".*.candidate")
        sweep(self._checkpoints / BEST)

    def put_aside(self, state: LearnerState, weights: dict[str, Tensor]) -> None:
        """Write the weights that are about to be evaluated aside, in the background, in the place of those before."""
        if self._keep:
            self._written = self._store.put_aside(self._candidate, state, weights)

    def judge(self, step: int, score: float) -> None:
        """Keep the weights put aside if theirs is among the best scores, or else drop them; from any thread.

        Raises Fenced, or what went wrong with their writing.
        """
        written, self._written = self._written, None
        if written is None:
            return
        self._store.wait_for(written)
        others = [each for each in ranking(self._checkpoints) if each.step != step]
        better = [each for each in others if (-each.score, each.step) < (-score, step)]
        folder = folder_of(self._checkpoints / BEST, step)
        self._permit()
        if len(better) < self._keep and math.isfinite(score):
            amend(self._candidate, **{SCORE: score})
            give_name(self._candidate, folder)
        elif folder.exists():
            discard(folder)
        for worse in ranking(self._checkpoints)[self._keep :]:
            discard(worse.folder)
        self.drop()

    def drop(self) -> None:
        """Forget the weights put aside, once they are written."""
        self._written = None
        shutil.rmtree(self._candidate, ignore_errors=True)


def _score(folder: Path) -> float:
    try:
        return float(read_state(folder)[SCORE])
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf
