"""`areal sample`: images of a run's policy, beside those of the model that it began from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from ...broker.errors import ArealError, ConfigError
from ...denoising.config import DenoisingConfig
from ..config import load_run_config
from ..records.rundir import CONFIG
from ..screen import Screen
from .export import Source, hush, saved_weights

if TYPE_CHECKING:
    from ...denoising.adapter import Adapter
    from ...denoising.images import Picture
    from ...denoising.models import ImageModel


Request = tuple[dict[str, Any], int, int]
"""A row, its number, and the number of one of its images."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which weights, and images of what: of these prompts, or of the rows that the run holds out; `each` so many."""

    step: int | None
    best: bool
    prompts: Sequence[str]
    each: int
    seed: int


def sample(source: Source, wanted: Wanted, *, output: Path | None) -> int:
    """Draw a sheet of images: left those of the model before, right those of the run now. Raises ArealError."""
    from ...denoising.images import draw_grid

    if source.denoising is None:
        raise ConfigError(f"{source.directory.name} has trained a language model, of which there are no images")
    hush()
    weights = saved_weights(source, wanted.step, best=wanted.best)
    rows = _rows(source, wanted.prompts)
    target = output or source.directory / f"sample-step-{weights.step}.png"
    if not target.parent.is_dir():
        raise ConfigError(f"--output: there is no folder {target.parent}")
    model, adapter = _loaded(source)
    adapter.load({name: weights.read(name) for name in weights.names()})
    requests = [(row, number, member) for number, row in enumerate(rows) for member in range(wanted.each)]
    with _counted(2 * len(requests)) as made:
        now = make_images(model, source.denoising, requests, wanted.seed, made)
        with adapter.off():
            before = make_images(model, source.denoising, requests, wanted.seed, made)
    try:
        draw_grid(list(zip(before, now, strict=True)), columns=wanted.each, path=target)
    except (OSError, ValueError) as error:
        raise ArealError(f"{target} cannot be written: {error}; name another file with --output") from error
    Screen().put(f"step {weights.step} of {source.directory.name}, before | now, a row each of {_told(rows)}: {target}")
    return 0


def _rows(source: Source, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """A prompt that is a number is the class of that number, too."""
    if prompts:
        return [{"prompt": text} | ({"label": int(text)} if text.isdecimal() else {}) for text in prompts]
    from ...learner.dataset import Dataset

    config = load_run_config(source.directory / CONFIG)
    rows = Dataset(config.dataset).eval_rows()[: config.evaluation.pictures]
    if not rows:
        raise ConfigError(f"{source.directory.name} holds no rows out (dataset.eval_size 0): name a --prompt")
    return rows


def _loaded(source: Source) -> "tuple[ImageModel, Adapter]":
    import torch

    from ...denoising.adapter import Adapter
    from ...denoising.models import load_image_model

    model, lora, denoising = source.model, source.model.lora, source.denoising
    if lora is None or denoising is None:
        raise ConfigError("model.lora is missing")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_image_model(model.path, denoising, dtype=getattr(torch, model.dtype), device=device)
    return loaded, Adapter(loaded.network, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)


def make_images(
    model: "ImageModel", config: DenoisingConfig, requests: Sequence[Request], seed: int, made: Callable[[int], object]
) -> "list[Picture]":
    """Images of these rows, of the noise that evaluations are made of if seed is 0; `made` is told of so many more."""
    import numpy as np
    import torch

    from ...denoising.noise import Noise
    from ...denoising.sampler import sample as sampled

    device, pictures = next(model.network.parameters()).device, []
    levels, wire = model.schedule.levels(config.steps), getattr(torch, config.wire)
    for first in range(0, len(requests), config.max_batch):
        batch = requests[first : first + config.max_batch]
        seeds = [_seeds(config, seed + number, member) for _, number, member in batch]
        noise = Noise([own for own, _ in seeds], model.latent_shape, starts=[start for _, start in seeds])
        denoise = model.denoise([model.condition(row) for row, _, _ in batch])
        chain = sampled(denoise, model.schedule, levels, noise, wire=wire, device=device)
        pictures += [np.asarray(image, np.uint8) for image in model.decode(chain.clean)]
        made(len(batch))
    return pictures


def _seeds(config: DenoisingConfig, number: int, member: int) -> tuple[int, int]:
    """Of an image of the row of that number, and of the noise that it begins with."""
    from ...rollout.images import looked_at, seeds_of

    own, start = seeds_of(looked_at(number), member + 1, shared_noise=config.shared_noise)
    return own[member], own[member] if start is None else start


@contextmanager
def _counted(total: int) -> Iterator[Any]:
    """Shows how many images have been made, on a terminal."""
    with Progress(transient=True) as progress:
        task = progress.add_task("images", total=total)
        yield lambda count: progress.advance(task, count)


def _told(rows: Sequence[dict[str, Any]]) -> str:
    names = [repr(str(row.get("prompt", row.get("label", "?"))))[:40] for row in rows]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
