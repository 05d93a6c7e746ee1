"""The noise that images are made of, drawn from a seed for each, so that it can be drawn again.

Legend: M images, D… the dimensions of a latent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Noise of several images, that of each drawn from its own seed, whichever others are made with it."""

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], *, starts: Sequence[int] | None = None) -> None:
        """`starts` are the seeds of the noise that images begin with, where that is not their own: a group may share it."""
        self._shape = tuple(shape)
        self._generators = [_seeded(seed) for seed in seeds]
        self._starts = None if starts is None else [_seeded(seed) for seed in starts]

    def start(self) -> Tensor:
        """float32[M, D…], what the images begin with."""
        own = self._drawn(
            self._generators
        )  # drawn in any case: the noise of the steps is the same whatever they begin with
        return own if self._starts is None else self._drawn(self._starts)

    def step(self) -> Tensor:
        """float32[M, D…], for the next step."""
        return self._drawn(self._generators)

    def _drawn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self._shape, generator=generator) for generator in generators])


def step_noise(seed: int, count: int, shape: Sequence[int]) -> Tensor:
    """float32[count, D…], the noise of the first steps of an image of that seed."""
    generator = _seeded(seed)
    torch.randn(tuple(shape), generator=generator)  # of the start
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(count)])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
