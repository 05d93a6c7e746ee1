"""What a learner keeps in the run's directory: checkpoints, the weights of chosen steps, and what it learned from."""

from collections.abc import Callable

from torch import Tensor

from .checkpoint import LearnerState, Snapshot
from .pupil import Pupil
from .ranks import Ranks
from .recording import Lesson, Recording
from .settings import LearnerSettings


class Keeper:
    """Keeps what a pupil has come to. Of several ranks each has one, and the leader's tells the others what is to be done.

    Nothing gets its name unless `permit`, called when it is written aside, lets it; that is the leader's, who is told
    when it is done.
    """

    def __init__(
        self, settings: LearnerSettings, pupil: Pupil, ranks: Ranks, *, epoch: int, permit: Callable[[], None]
    ) -> None:
        self._pupil = pupil
        self._ranks = ranks
        self._epoch = epoch
        self._permit = permit
        self._checkpoints = settings.checkpoints(ranks.group)
        self._best = settings.best(self._checkpoints, epoch=epoch, permit=permit)
        self._recording = Recording(settings.directory / "groups")
        pupil.before_update(self._checkpoints.await_copy)

    def sweep(self) -> None:
        """Delete what earlier learners left that is of no more use: half written, or of a lineage that is lost."""
        self._checkpoints.sweep()
        self._best.sweep()
        self._recording.forget(after=self._pupil.step)

    def record(self, lesson: Lesson) -> None:
        """Keep what a step was taken on."""
        self._recording.add(lesson, permit=self._permit)

    def checkpoint(self, snapshot: Snapshot, *, done: Callable[[], None]) -> None:
        """Let the state be copied aside and written, and `done` be called once it is durable."""
        self._ranks.tell("checkpoint")
        self._checkpoints.save(snapshot, permit=self._permit_checkpoint, done=done)

    def archive(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights for good, if they are those of a step for that; a checkpoint of the step sees to it too."""
        if self._checkpoints.archives(self._pupil.step):
            self._ranks.tell("archive")
            self._checkpoints.archive(self._bare_state(), weights, permit=self._permit)

    def put_aside(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights until `judge` is told their score."""
        self._ranks.tell("put_aside")
        self._best.put_aside(self._bare_state(), weights)

    def judge(self, step: int, score: float) -> None:
        """Keep the weights put aside if theirs is among the best scores; from any thread."""
        self._best.judge(step, score)

    def wait(self) -> None:
        """Until all is durable; raises what went wrong with any of it."""
        self._checkpoints.wait()
        self._recording.wait()

    def drop(self) -> None:
        """Forget the weights that wait for a score."""
        self._best.drop()

    def _permit_checkpoint(self) -> None:
        self._recording.wait()  # so that no batch that it covers is missing there
        self._permit()

    def _bare_state(self) -> LearnerState:
        """What stands beside weights that are alone."""
        return LearnerState(self._pupil.step, self._pupil.version, [], self._epoch)
