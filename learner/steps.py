"""Denoising steps laid flat: (image, step) pairs in one batch, whichever images and levels they are of.

Legend: M steps, S images, D… the dimensions of a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..broker.trajectory import DenoisingTrajectory
from ..denoising.noise import step_noise


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A micro-batch of steps, image by image.

    latents     [M, D…] in the type of the wire, where each step begins
    drawn       likewise, what it drew
    levels      int64[M], the noise of `latents`
    targets     int64[M], that of `drawn`
    noise       float32[M, D…], what `drawn` was made with
    segment_ids int64[M], which image the step is of
    conditions  of each step, what the network was given
    """

    latents: Tensor
    drawn: Tensor
    levels: Tensor
    targets: Tensor
    noise: Tensor
    segment_ids: Tensor
    conditions: list[dict[str, Any]]
    num_segments: int

    @property
    def num_actions(self) -> int:
        return len(self.levels)

    @property
    def size(self) -> int:
        """The steps that the network sees."""
        return len(self.levels)

    def to(self, device: torch.device | str) -> "StepBatch":
        names = ("latents", "drawn", "levels", "targets", "noise", "segment_ids")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def flatten(trajectories: Sequence[DenoisingTrajectory], positions: Sequence[Sequence[int]]) -> StepBatch:
    """The steps at these positions of each image (from 0, rising), an image a segment, in their order."""
    if not trajectories:
        raise ValueError("there is no trajectory to learn from")
    pairs = list(zip(trajectories, positions, strict=True))
    lengths_S = torch.tensor([len(chosen) for chosen in positions])
    return StepBatch(
        latents=_stacked([t.latents[at] for t, chosen in pairs for at in chosen]),
        drawn=_stacked([t.latents[at + 1] for t, chosen in pairs for at in chosen]),
        levels=torch.tensor([int(t.timesteps[at]) for t, chosen in pairs for at in chosen]),
        targets=torch.tensor([int(t.timesteps[at + 1]) for t, chosen in pairs for at in chosen]),
        noise=torch.cat([_noise_of(t)[list(chosen)] for t, chosen in pairs]),
        segment_ids=torch.arange(len(trajectories)).repeat_interleave(lengths_S),
        conditions=[t.condition for t, chosen in pairs for _ in chosen],
        num_segments=len(trajectories),
    )


def _noise_of(trajectory: DenoisingTrajectory) -> Tensor:
    return step_noise(trajectory.seed, trajectory.num_actions, trajectory.latents.shape[1:])


def _stacked(latents: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    return torch.from_numpy(np.stack(latents))
