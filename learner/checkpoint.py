"""What a learner resumes from: copied aside and written in the background, whole or not there at all.

    tensors ──copy──▶ aside ──write, sum up──▶ .7.partial/ ──rename──▶ step-00000020/ ──done──▶ groups acknowledged
       └ unchanged until here └ then training may change them

checkpoints/step-00000020/          the newest `keep` stay
checkpoints/archive/step-00000005/  weights alone: not to resume from, but kept for good
checkpoints/best/                   see best.py
"""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from ..broker.errors import ArealError, DeadlineExceeded, ModelError
from .behind import Behind
from .saved import (
    discard,
    folder_of,
    give_name,
    parts_of,
    read_state,
    require_sound,
    restore,
    saved_steps,
    seal,
    sweep,
)
from .shards import Shards, write_shards
from .staging import Staging

ARCHIVE, PARTIAL = "archive", ".partial"
WEIGHTS, OPTIMIZER, CRITIC, RANDOM = "weights", "optimizer", "critic", "random"
WRITE_TIMEOUT_S = 1800.0

T = TypeVar("T")
Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class LearnerState:
    """All but the tensors: the step, the version its weights were published as, the ledger's ranges, the epoch.

    `resumes` holds version and gap of each resume that this lineage has behind it (Trainer.resume); `filtered` counts
    the groups in the ledger that were only looked at, `solved` what is known of their rows
    (SolveRates), `estimator` is the state of the advantage's Estimator, and `scale` that of the critic's values.
    """

    step: int
    version: int
    trained: list[tuple[int, int]]
    epoch: int
    resumes: list[tuple[int, int]] = field(default_factory=list)
    filtered: int = 0
    solved: dict[str, list[int]] = field(default_factory=dict)
    estimator: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A learner at the end of a step, or a rank's part of it; the critic's tensors are none where there is none.

    The tensors may be the learner's own: they are copied while it does not change them (CheckpointStore.await_copy).
    """

    state: LearnerState
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    critic: dict[str, Tensor]
    rng: Tensor


class Checkpoint:
    """One on the disk, which was sound when it was opened: its state, and tensors to be read where they are wanted."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError if it is damaged."""
        self._folder = folder
        try:
            parts = parts_of(folder)
            for part in parts:
                require_sound(folder, part)
            self._parts = {part: Shards(folder / part) for part in parts}
            self.state = LearnerState(**read_state(folder))
            self.rng = self._parts[RANDOM].read("rng")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"the checkpoint {folder} cannot be read: {error}; delete it to resume before it"
            ) from error

    def parts(self) -> set[str]:
        """What it holds tensors of: weights, optimizer, and critic if there was one."""
        return set(self._parts) - {RANDOM}

    def fill(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Read a part into tensors of its names and shapes; raises ModelError, naming what differs, if there are others."""
        try:
            self._parts[part].fill(tensors)
        except (ModelError, OSError, ValueError) as error:
            raise ModelError(
                f"the {part} of the checkpoint {self._folder} cannot be taken over: {error}; go on with the model.path, "
                "model.dtype and model.lora that it was written with, or begin a run of another name"
            ) from error

    def read(self, part: str) -> dict[str, Tensor]:
        """All tensors of a part, whole."""
        shards = self._parts[part]
        return {name: shards.read(name) for name in shards.names()}


class CheckpointStore:
    """Checkpoints of a run, one written at a time; the newest `keep` stay.

    The weights of every `archive_every` steps are kept for good besides; 0 for none. Where there is a group of ranks, all
    call the same methods in the same order, each with its own tensors; the first alone gives names, and calls `permit`
    and `done`. The group must be of this store alone, as it is used from a thread of its own.
    """

    def __init__(
        self, directory: Path, *, keep: int, archive_every: int = 0, group: dist.ProcessGroup | None = None
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._archive_every = archive_every
        self._group = group
        self._leads = group is None or group.rank() == 0
        self._behind = Behind("a checkpoint", timeout_s=WRITE_TIMEOUT_S)
        self._staging = Staging()
        self._handed_over: Snapshot | None = None
        self._step = -1
        self._copied = Event()
        self._copied.set()

    def save(self, snapshot: Snapshot, *, permit: Callable[[], None], done: Callable[[], None]) -> None:
        """Copy and write in the background, then call `done`; unless `permit`, called when all is written aside, raises.

        The tensors must not change until `await_copy` returns. Waits for the write before. What goes wrong with any
        is raised by all of these methods from then on.
        """
        self.wait()
        self._copied.clear()
        self._handed_over = snapshot
        self._begin(snapshot.state.step, self._write, snapshot.state, permit, done)

    def await_copy(self) -> None:
        """Until the tensors that were handed to `save` may change; raises DeadlineExceeded, and what went wrong."""
        if not self._copied.wait(WRITE_TIMEOUT_S):
            raise DeadlineExceeded(f"the state of a checkpoint was not copied within {WRITE_TIMEOUT_S:g} s")
        self._behind.check()

    def archives(self, step: int) -> bool:
        """Whether the weights of that step are kept for good; where it is saved, `save` sees to that too."""
        return 0 < self._archive_every <= step and step % self._archive_every == 0

    def archive(self, state: LearnerState, weights: dict[str, Tensor], *, permit: Callable[[], None]) -> None:
        """Write the weights alone, in the background like `save`."""
        self.wait()
        self._begin(state.step, self._keep_for_good, state, weights, permit)

    def put_aside(self, folder: Path, state: LearnerState, weights: dict[str, Tensor]) -> Future[None]:
        """Write the weights alone into a sealed folder that somebody else gives a name, in the background like `save`.

        Where the same step is being saved it waits for nothing, as the tensors are the same.
        """
        if state.step != self._step:
            self.wait()
        return self._begin(state.step, self._write_aside, folder, _of_weights(state), {WEIGHTS: weights})

    def wait(self) -> None:
        """Until all writes under way are durable; raises the error of the first that failed, or DeadlineExceeded."""
        self._behind.wait()

    def wait_for(self, written: Future[None]) -> None:
        """Until this write is durable; raises its error, or DeadlineExceeded."""
        self._behind.wait_for(written)
        written.result()

    def sweep(self) -> None:
        """Put right what earlier learners left half written or half replaced. For the one that writes them."""
        sweep(self._directory, f".*{PARTIAL}")
        sweep(self._directory / ARCHIVE)

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None; raises ModelError if it is damaged. For the one that writes them."""
        restore(self._directory)
        folders = saved_steps(self._directory)
        return Checkpoint(folders[max(folders)]) if folders else None

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step; raises ModelError if there is none, or if it is damaged."""
        folders = saved_steps(self._directory)
        if step not in folders:
            there = ", ".join(map(str, folders)) or "none"
            raise ModelError(f"there is no checkpoint of step {step} in {self._directory}; those there: {there}")
        return Checkpoint(folders[step])

    def _begin(self, step: int, write: Callable[..., None], *given: Any) -> Future[None]:
        self._step = step
        return self._behind.begin(write, *given)

    def _write(self, state: LearnerState, permit: Callable[[], None], done: Callable[[], None]) -> None:
        parts = self._copies()
        if self.archives(state.step):  # first: a run that resumes from this step does not come by it again
            self._keep_for_good(state, parts[WEIGHTS], permit)
        self._put(self._directory, asdict(state), parts, permit)
        self._led(lambda: self._prune(state.step))
        self._led(done)

    def _copies(self) -> Parts:
        """Copies of what was handed over, which is held no longer, so that its memory serves the next step."""
        snapshot, self._handed_over = self._handed_over, None
        assert snapshot is not None
        parts = {WEIGHTS: snapshot.weights, OPTIMIZER: snapshot.optimizer, CRITIC: snapshot.critic}
        try:
            copies = {part: self._staging.copy(part, tensors) for part, tensors in parts.items()}
        finally:
            self._copied.set()
        if not copies[CRITIC]:
            del copies[CRITIC]
        return copies | {RANDOM: {"rng": snapshot.rng} if self._leads else {}}

    def _keep_for_good(self, state: LearnerState, weights: Mapping[str, Tensor], permit: Callable[[], None]) -> None:
        self._put(self._directory / ARCHIVE, _of_weights(state), {WEIGHTS: weights}, permit)

    def _put(self, place: Path, state: dict[str, Any], parts: Parts, permit: Callable[[], None]) -> None:
        """Write a step's folder aside, and give it its name in that place once it is whole and permitted."""
        folder, aside = folder_of(place, state["step"]), self._directory / f".{state['epoch']}{PARTIAL}"
        if self._led(lambda: _is_there(folder, state)):
            return

        def name() -> None:
            permit()
            give_name(aside, folder)

        self._write_aside(aside, state, parts)
        self._led(name)

    def _write_aside(self, aside: Path, state: Any, parts: Parts) -> None:
        folder = self._led(lambda: _emptied(aside))  # the first rank's, who knows the epoch
        try:
            for part, tensors in parts.items():
                write_shards(folder / part, tensors, self._group)
            self._led(lambda: seal(folder, state))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)  # on a full disk what is half written takes the rest of it
            raise ArealError(
                f"step {state['step']} cannot be saved in {self._directory}: {error}; make room there, or lower "
                "checkpoint.keep"
            ) from error

    def _prune(self, step: int) -> None:
        """Keep the newest up to this step, the one just written; what is beyond it is of a lineage that is lost."""
        kept = saved_steps(self._directory)
        lineage = [each for each in kept if each <= step]
        for old in kept.keys() - set(lineage[-self._keep :]):
            discard(kept[old])
        self.sweep()

    def _led(self, do: Callable[[], T]) -> T:
        """What the first rank makes of it, on every rank; raises on all what it raises there."""
        if self._group is None:
            return do()
        told: list[Any] = [None, ""]
        cause: BaseException | None = None
        if self._leads:
            try:
                told[0] = do()
            except BaseException as error:
                cause, told[1] = error, f"{type(error).__name__}: {error}"
        dist.broadcast_object_list(told, group=self._group, group_src=0)
        if cause is not None:
            raise cause
        if told[1]:
            raise ArealError(f"the first rank could not save: {told[1]}")
        made: T = told[0]
        return made


def _of_weights(state: LearnerState) -> dict[str, Any]:
    """What stands beside weights that are alone."""
    return {"step": state.step, "version": state.version, "epoch": state.epoch}


def _is_there(folder: Path, state: dict[str, Any]) -> bool:
    """Whether that very state has been written; it is whole then, since it bears its name."""
    try:
        return bool(read_state(folder) == json.loads(json.dumps(state)))
    except (OSError, ValueError):  # none, or one that is damaged
        return False


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
