"""What a learner resumes from: copied aside at once, written in the background, whole or not there at all.

checkpoints/step-00000020/          state.json  tensors/{weights,optimizer,critic}.safetensors
checkpoints/archive/step-00000005/  state.json  tensors/weights.safetensors      not to resume from, but kept for good
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..broker.errors import DeadlineExceeded, ModelError
from ..broker.folder import checksum, flush, sync

STATE_FILE = "state.json"
ARCHIVE = "archive"
WRITE_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class LearnerState:
    """All but the tensors: the step, the version its weights were published as, the ledger's ranges, the epoch.

    `resumes` holds version and gap of each resume that this lineage has behind it (Trainer.resume); `filtered` counts
    the groups in the ledger that were only looked at, `solved` what is known of their rows
    (SolveRates), and `estimator` is the state of the advantage's Estimator.
    """

    step: int
    version: int
    trained: list[tuple[int, int]]
    epoch: int
    resumes: list[tuple[int, int]] = field(default_factory=list)
    filtered: int = 0
    solved: dict[str, list[int]] = field(default_factory=dict)
    estimator: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A learner at the end of a step; the tensors are its own, and those of the critic none where there is none."""

    state: LearnerState
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    critic: dict[str, Tensor]
    rng: Tensor


class CheckpointStore:
    """Checkpoints of a run, one written at a time; the newest `keep` stay.

    The weights of every `archive_every` steps are kept for good besides; 0 for none.
    """

    def __init__(self, directory: Path, *, keep: int, archive_every: int = 0) -> None:
        self._directory = directory
        self._keep = keep
        self._archive_every = archive_every
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, snapshot: Snapshot, *, permit: Callable[[], None], done: Callable[[], None]) -> None:
        """Write in the background, then call `done`; unless `permit`, called when all is written aside, raises.

        Waits for, and raises the error of, the write before.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, snapshot, permit, done)

    def archives(self, step: int) -> bool:
        """Whether the weights of that step are kept for good; where it is saved, `save` sees to that too."""
        return 0 < self._archive_every <= step and step % self._archive_every == 0

    def archive(self, state: LearnerState, weights: dict[str, Tensor], *, permit: Callable[[], None]) -> None:
        """Write the weights alone, in the background like `save`."""
        self.wait()
        self._pending = self._writer.submit(self._keep_for_good, state, weights, permit)

    def wait(self) -> None:
        """Until the write under way is durable; raises its error, or DeadlineExceeded."""
        if self._pending is not None:
            try:
                self._pending.result(WRITE_TIMEOUT_S)
            except TimeoutError as error:
                raise DeadlineExceeded(f"a checkpoint was not written within {WRITE_TIMEOUT_S:g} s") from error
            self._pending = None

    def load_latest(self) -> Snapshot | None:
        """The newest checkpoint, or None; raises ModelError if it is damaged."""
        folders = self._folders()
        return _read(folders[-1]) if folders else None

    def load(self, step: int) -> Snapshot:
        """The checkpoint of a step; raises ModelError if there is none, or if it is damaged."""
        folder = self._folder(step)
        if not folder.exists():
            there = ", ".join(str(int(each.name.partition("-")[2])) for each in self._folders()) or "none"
            raise ModelError(f"there is no checkpoint of step {step} in {self._directory}; those there: {there}")
        return _read(folder)

    def _folder(self, step: int) -> Path:
        return self._directory / f"step-{step:08d}"

    def _folders(self) -> list[Path]:
        return sorted(self._directory.glob("step-*"))

    def _write(self, snapshot: Snapshot, permit: Callable[[], None], done: Callable[[], None]) -> None:
        if self.archives(snapshot.state.step):  # first: a run that resumes from this step does not come by it again
            self._keep_for_good(snapshot.state, snapshot.weights, permit)
        optimizer = snapshot.optimizer | {"rng": snapshot.rng}
        files = {"weights": snapshot.weights, "optimizer": optimizer}
        if snapshot.critic:
            files["critic"] = snapshot.critic
        self._put(self._directory, asdict(snapshot.state), files, permit)
        for old in self._folders()[: -self._keep]:
            self._discard(old)
        for left in [*self._directory.glob(".replaced.*"), *self._directory.glob(".*.partial")]:
            shutil.rmtree(left, ignore_errors=True)
        done()

    def _keep_for_good(self, state: LearnerState, weights: dict[str, Tensor], permit: Callable[[], None]) -> None:
        of_weights = {"step": state.step, "version": state.version, "epoch": state.epoch}
        self._put(self._directory / ARCHIVE, of_weights, {"weights": weights}, permit)

    def _put(
        self, place: Path, state: dict[str, Any], files: dict[str, dict[str, Tensor]], permit: Callable[[], None]
    ) -> None:
        """Write a step's folder aside, and give it its name in that place once it is whole and permitted."""
        folder = place / f"step-{state['step']:08d}"
        state = json.loads(json.dumps(state))
        if folder.exists() and _state_of(folder) == state:  # whole, since it bears its name; nothing was trained since
            return
        place.mkdir(parents=True, exist_ok=True)
        aside = self._directory / f".{state['epoch']}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        tensors = aside / "tensors"
        tensors.mkdir(parents=True)
        for name, content in files.items():
            save_file(content, tensors / f"{name}.safetensors")
        flush(tensors)
        (aside / STATE_FILE).write_text(json.dumps(state | {"digest": checksum(tensors)}))
        flush(aside)
        permit()
        if folder.exists():
            self._discard(folder)
        aside.rename(folder)
        sync(place)
        sync(self._directory)  # which may have got the archive just now

    def _discard(self, folder: Path) -> None:
        """Takes its name from a folder, so that nobody opens one that is being deleted."""
        aside = self._directory / f".replaced.{folder.name}"
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    return {key: value for key, value in state.items() if key != "digest"}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors' values as they are now, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _read(folder: Path) -> Snapshot:
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        if checksum(folder / "tensors") != state.pop("digest"):
            raise ModelError(
                f"the checkpoint {folder} is damaged (its checksum differs); delete it to resume before it"
            )
        weights = load_file(folder / "tensors" / "weights.safetensors")
        optimizer = load_file(folder / "tensors" / "optimizer.safetensors")
        critic_file = folder / "tensors" / "critic.safetensors"  # only where there is a critic
        critic = load_file(critic_file) if critic_file.exists() else {}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the checkpoint {folder} cannot be read: {error}; delete it to resume before it") from error
    rng = optimizer.pop("rng")
    return Snapshot(LearnerState(**state), weights, optimizer, critic, rng)
