"""The weights that a run has saved: which steps there are, and the tensors of one, each read when it is asked for.

checkpoints/step-00000040/          a checkpoint; the newest checkpoint.keep stay
checkpoints/archive/step-00000040/  weights alone, every checkpoint.archive_every_steps, for good
checkpoints/best/step-00000030/     those of the checkpoint.best best evaluations, for good
"""

from pathlib import Path

from torch import Tensor

from ..broker.errors import ModelError
from .best import BEST, ranking
from .checkpoint import ARCHIVE, WEIGHTS
from .saved import require_sound, saved_steps
from .shards import Shards

ATTEMPTS = 3
"""How often a step is looked for that is replaced or deleted while it is being opened."""

MAX_NAMED = 20


class SavedWeights:
    """The weights of one step, open: they can be read to the end even if their files are deleted meanwhile.

    score: of the evaluation that they are kept for, if that is why they were opened.
    """

    def __init__(self, step: int, shards: Shards, score: float | None = None) -> None:
        self.step = step
        self.score = score
        self._shards = shards

    def names(self) -> list[str]:
        """The names of the tensors, as in TokenPolicy.weights."""
        return self._shards.names()

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._shards.read(name)


def open_weights(checkpoints: Path, step: int | None = None) -> SavedWeights:
    """The weights of that step, or of the newest checkpoint; raises ModelError, naming the steps there are.

    Weights alone are the newest only where there is no checkpoint: those beyond it may be of a lineage that is lost.
    """
    cause: OSError | None = None
    for _ in range(ATTEMPTS):
        folders = _folders(checkpoints)
        chosen = max(saved_steps(checkpoints) or folders, default=0) if step is None else step
        if chosen not in folders:
            raise ModelError(_missing(checkpoints, chosen, sorted(folders)))
        try:
            return SavedWeights(chosen, _open(folders[chosen]))
        except OSError as error:  # it has gone since it was listed, or another has taken its place
            cause = error
    raise ModelError(f"the weights in {folders[chosen]} cannot be read: {cause}; name another step")


def open_best(checkpoints: Path) -> SavedWeights:
    """The weights of the best evaluation; raises ModelError if none are kept."""
    cause: OSError | None = None
    for _ in range(ATTEMPTS):
        kept = ranking(checkpoints)
        if not kept:
            raise ModelError(
                f"no weights are kept in {checkpoints / BEST}: set checkpoint.best for a run, and evaluation.every_steps"
            )
        try:
            return SavedWeights(kept[0].step, _open(kept[0].folder), kept[0].score)
        except OSError as error:  # better ones have taken its place
            cause = error
    raise ModelError(f"the weights in {kept[0].folder} cannot be read: {cause}; name a step")


def _folders(checkpoints: Path) -> dict[int, Path]:
    """Where each step is; the checkpoint, where there is one, as it is of the lineage that goes on."""
    return saved_steps(checkpoints / BEST) | saved_steps(checkpoints / ARCHIVE) | saved_steps(checkpoints)


def _open(folder: Path) -> Shards:
    """The weights of a folder that is whole; raises OSError if that is gone or replaced by the end."""
    opened, shards, damage = folder.stat().st_ino, None, ""
    try:
        require_sound(folder, WEIGHTS)
        shards = Shards(folder / WEIGHTS)
    except ValueError as error:
        damage = str(error)
    if folder.stat().st_ino != opened:
        raise FileNotFoundError(f"{folder} was replaced")
    if shards is None:
        raise ModelError(f"the weights in {folder} are damaged ({damage}); name another step")
    return shards


def _missing(checkpoints: Path, step: int, steps: list[int]) -> str:
    if not steps:
        return f"there are no checkpoints in {checkpoints}: the first is written after checkpoint.every_steps steps"
    named = ", ".join(map(str, steps[-MAX_NAMED:]))
    more = f"{len(steps) - MAX_NAMED} more and " if len(steps) > MAX_NAMED else ""
    return (
        f"there are no weights of step {step} in {checkpoints}, but of {more}{named}; the newest "
        "checkpoint.keep checkpoints stay, the weights of every checkpoint.archive_every_steps steps, and those of the "
        "checkpoint.best best evaluations"
    )
