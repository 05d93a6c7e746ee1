"""`areal export`: the weights of a checkpoint, as a folder that vLLM and transformers load."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...broker.errors import ArealError, ConfigError
from ...broker.folder import flush, sync
from ...denoising.config import DenoisingConfig
from ...learner.config import ModelConfig
from ..config import load_model_part
from ..control.locate import require_directory
from ..records.rundir import CONFIG
from ..screen import Screen
from .path import resolve_model

if TYPE_CHECKING:
    from ...learner.archive import SavedWeights
    from ...learner.policy import Policy


@dataclass(frozen=True, slots=True)
class Source:
    """A run's directory, and the model that its weights are of, the path resolved; `denoising` of an image policy."""

    directory: Path
    model: ModelConfig
    denoising: DenoisingConfig | None = None

    @property
    def checkpoints(self) -> Path:
        """Where its weights are."""
        return self.directory / "checkpoints"


def source_of(run: str, folder: Path) -> Source:
    """What RUN names, here or in a folder of run directories. Raises ArealError."""
    directory = require_directory(run, folder)
    part = load_model_part(directory / CONFIG)
    try:
        path = resolve_model(part.model.path, directory, pipeline=part.denoising is not None)
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from error
    return Source(directory, part.model.model_copy(update={"path": str(path)}), part.denoising)


def saved_weights(source: Source, step: int | None, *, best: bool) -> "SavedWeights":
    """Those of a step, of the best evaluation, or the newest. Raises ModelError."""
    from ...learner.archive import open_best, open_weights

    return open_best(source.checkpoints) if best else open_weights(source.checkpoints, step)


def policy_of(source: Source, weights: "SavedWeights") -> "Policy":
    """The policy that had these weights."""
    from ...learner.token_policy import TokenPolicy

    policy: Policy
    if source.denoising is None:
        policy = TokenPolicy(source.model.path, source.model)
    else:
        from ...learner.denoising_policy import DenoisingPolicy

        policy = DenoisingPolicy(source.model, source.denoising)
    policy.load_weights({name: weights.read(name) for name in weights.names()})
    return policy


def require_texts(source: Source, what: str) -> None:
    """Raises ConfigError where an image policy was trained."""
    if source.denoising is not None:
        raise ConfigError(
            f"{what}: {source.directory.name} has trained the adapter of an image policy, which diffusers loads beside "
            "its pipeline as it is"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which weights: those of a step, of the best evaluation, or by default the newest; and of LoRA in which form."""

    step: int | None
    best: bool
    merged: bool


def export(source: Source, wanted: Wanted, *, output: Path | None) -> int:
    """Write these weights; with LoRA the adapter's, unless merged. Raises ArealError."""
    from ...learner.merge import Mixture

    if wanted.merged:
        require_texts(source, "--merged")
    if wanted.merged and source.model.lora is None:
        raise ConfigError(
            f"--merged: {source.directory.name} has trained no adapter (model.lora is null), so that its weights are "
            "the whole model: leave --merged out"
        )
    hush()
    weights = saved_weights(source, wanted.step, best=wanted.best)
    target = output or source.directory / f"export-step-{weights.step}"
    with new_folder(target) as aside:
        if source.model.lora is None or wanted.merged:
            Mixture(source.model, [weights]).write([1.0], aside)
        else:
            policy_of(source, weights).save_pretrained(aside)
    what = "model" if source.model.lora is None or wanted.merged else f"adapter of {source.model.path}"
    why = "" if weights.score is None else f" (the best, {weights.score:.4f})"
    Screen().put(f"step {weights.step} of {source.directory.name}{why}, {what}: {target}/")
    return 0


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its name when it is complete. Raises ArealError if that is taken."""
    if target.exists():
        raise ArealError(f"{target} exists, and nothing is written over: delete it, or name another with --output")
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        flush(aside)
        aside.rename(target)
        sync(target.parent)
    except OSError as error:
        raise ArealError(f"{target} cannot be written: {error}; name another folder with --output") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def hush() -> None:
    """Let transformers draw no progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
