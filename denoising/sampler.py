"""From noise to an image in a few stochastic steps, each of which, but for the last, is an action with a density.

    x₁ ─f─▶ a·f + s·z ─cast─▶ x₂ ─f─▶ … ─▶ x_N ─f─▶ image         N evaluations, N − 1 actions

The last evaluation draws nothing: what it says is the image. (RLCM's code re-noises there and scores that as an action; the
image does not depend on it, and its gradient is noise with the largest weight of all.) Densities are those of the latents
as they travel, that is after the cast to the type of the wire, so that whoever evaluates them again finds the same.

Legend: N evaluations, H = N − 1 actions, M images, D… the dimensions of a latent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..broker.errors import EngineError
from .gaussian import like, log_density
from .noise import Noise
from .schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""From latents [M, D…] of the type of the wire and their levels int64[M] to f(x, τ), float32[M, D…]."""


@dataclass(frozen=True, slots=True)
class Chain:
    """M images, and how they came about.

    latents: [N, M, D…] in the type of the wire, from pure noise on.
    levels: of each of these.
    logprobs: float32[H, M], of each action.
    clean: float32[M, D…], the images, as latents.
    """

    latents: Tensor
    levels: list[int]
    logprobs: Tensor
    clean: Tensor


@torch.no_grad()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    levels: Sequence[int],
    noise: Noise,
    *,
    wire: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Chain:
    """Make images at these levels, the noisiest first. Raises EngineError if the network says what is no number."""
    x_MD = (schedule.initial_std * noise.start()).to(device, wire)
    latents, logprobs = [x_MD], []
    for level, then in pairwise(levels):
        clean_MD = _finite(denoise(x_MD, _all_at(level, x_MD)), level)
        scale_M, std_M = schedule.target(_all_at(then, x_MD))
        mean_MD = like(scale_M, x_MD) * clean_MD
        x_MD = (mean_MD + like(std_M, x_MD) * noise.step().to(device)).to(wire)
        latents.append(x_MD)
        logprobs.append(log_density(x_MD.float(), mean_MD, std_M))
    clean_MD = _finite(denoise(x_MD, _all_at(levels[-1], x_MD)), levels[-1])
    actions = torch.stack(logprobs) if logprobs else torch.empty(0, len(x_MD))
    return Chain(torch.stack(latents), list(levels), actions, clean_MD)


def _finite(clean_MD: Tensor, level: int) -> Tensor:
    """The same, if all of it are numbers: one that is none would be a latent, a density and a gradient in turn."""
    if not clean_MD.isfinite().all():
        odd = int((~clean_MD.isfinite().flatten(1).all(1)).sum())
        raise EngineError(
            f"the network's output at level {level} is not finite for {odd} of {len(clean_MD)} images. In float16 it may "
            "overflow: try model.dtype=bfloat16 or float32, or denoising.wire=float32; else the weights are spoilt: "
            "train from an earlier checkpoint with a smaller optimizer.lr"
        )
    return clean_MD


def _all_at(level: int, x_MD: Tensor) -> Tensor:
    return torch.full((len(x_MD),), level, dtype=torch.int64, device=x_MD.device)
