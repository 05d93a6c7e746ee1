"""`areal export`: the weights of a checkpoint, as a folder that vLLM and transformers load."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..broker.errors import ArealError, ConfigError, ModelError
from ..broker.folder import flush, sync
from ..learner.config import ModelConfig
from .config import load_model_config
from .locate import require_directory
from .models import resolve_model
from .rundir import CONFIG
from .screen import Screen


@dataclass(frozen=True, slots=True)
class Source:
    """A run's directory, and the model that its weights are of, the path resolved."""

    directory: Path
    model: ModelConfig

    @property
    def checkpoints(self) -> Path:
        """Where its weights are."""
        return self.directory / "checkpoints"


def source_of(run: str, folder: Path) -> Source:
    """What RUN names, here or in a folder of run directories. Raises ArealError."""
    directory = require_directory(run, folder)
    model = load_model_config(directory / CONFIG)
    try:
        path = resolve_model(model.path, directory)
    except ModelError as error:
        raise ModelError(f"{directory / CONFIG}: {error}") from error
    return Source(directory, model.model_copy(update={"path": str(path)}))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which weights: those of a step, of the best evaluation, or by default the newest; and of LoRA in which form."""

    step: int | None
    best: bool
    merged: bool


def export(source: Source, wanted: Wanted, *, output: Path | None) -> int:
    """Write these weights; with LoRA the adapter's, unless merged. Raises ArealError."""
    from ..learner.archive import open_best, open_weights
    from ..learner.merge import Mixture
    from ..learner.policy import TokenPolicy

    if wanted.merged and source.model.lora is None:
        raise ConfigError(
            f"--merged: {source.directory.name} has trained no adapter (model.lora is null), so that its weights are "
            "the whole model: leave --merged out"
        )
    hush()
    weights = open_best(source.checkpoints) if wanted.best else open_weights(source.checkpoints, wanted.step)
    target = output or source.directory / f"export-step-{weights.step}"
    with new_folder(target) as aside:
        if source.model.lora is None or wanted.merged:
            Mixture(source.model, [weights]).write([1.0], aside)
        else:
            policy = TokenPolicy(source.model.path, source.model)
            policy.load_weights({name: weights.read(name) for name in weights.names()})
            policy.save_pretrained(aside)
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
