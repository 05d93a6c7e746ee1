"""The critic's loss, and the scale of what it learns.

Legend: A actions (sampled tokens) of a micro-batch, in any order.
"""

from math import sqrt

import torch
from torch import Tensor


def clipped_value_loss(
    values_A: Tensor, old_values_A: Tensor, returns_A: Tensor, *, clip: float, weights_A: Tensor
) -> tuple[Tensor, Tensor]:
    """L = Σ w · ½ · max((V − R)², (V_clip − R)²) with V_clip = clip(V, V_old − c, V_old + c); and the number clipped.

    Both are scalars that sum over micro-batches. Clipped are the actions whose value has moved by more than c, and is
    nearer to the return than V_clip: they have no gradient.

    Source: arXiv 2005.12729, section 3. It prints min; its code and that of PPO (arXiv 1707.06347) take the max, the
    pessimistic of the two.

    values_A:     float[A], V, with gradient.
    old_values_A: float[A], V_old, those of the critic when the batch was taken.
    returns_A:    float[A], R.
    clip:         c, in units of the values; inf clips nothing.
    weights_A:    float[A], not negative: 1/A for a mean. Actions of weight 0 count for nothing, whatever their numbers.
    """
    _check(values_A, old_values_A, returns_A, weights_A)
    if not clip > 0:
        raise ValueError(f"clip is {clip}, not positive")
    kept_A = weights_A > 0
    value_A, old_A, return_A = (
        torch.where(kept_A, given_A.float(), 0.0) for given_A in (values_A, old_values_A.detach(), returns_A.detach())
    )
    free_A = (value_A - return_A).square()
    clipped_A = (value_A.clamp(old_A - clip, old_A + clip) - return_A).square()
    loss = (weights_A.detach() * 0.5 * torch.maximum(free_A, clipped_A)).sum()
    return loss, (clipped_A > free_A).float().sum()


class ValueNormaliser:
    """Running mean and standard deviation of the returns, so that the critic learns numbers of order 1.

    m ← β·m + (1−β)·mean(R), s ← β·s + (1−β)·mean(R²), d ← β·d + (1−β), each from 0; the mean is m/d, the variance
    s/d − (m/d)²: weighted averages of the batches seen, recent ones first, without the zeros at the start. Before any
    batch mean and deviation are 0 and 1.

    Source: MAPPO, arXiv 2103.01955, and its code, onpolicy/utils/valuenorm.py.

    beta:         β in [0, 1): about 1/(1−β) batches are remembered.
    min_variance: the least variance to divide by, for returns that hardly vary.
    """

    def __init__(self, *, beta: float = 0.99999, min_variance: float = 1e-2) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta is {beta}, not in [0, 1)")
        self._beta, self._min_variance = beta, min_variance
        self._mean = self._mean_square = self._weight = 0.0

    @property
    def mean(self) -> float:
        return self._mean / self._weight if self._weight else 0.0

    @property
    def std(self) -> float:
        if not self._weight:
            return 1.0
        return sqrt(max(self._mean_square / self._weight - self.mean**2, self._min_variance))

    def update(self, returns_A: Tensor) -> None:
        """Take the returns of a batch, float[A], into account; none, and nothing changes."""
        if returns_A.numel() == 0:
            return
        return_A = returns_A.detach().double()
        self._mean += (1 - self._beta) * (return_A.mean().item() - self._mean)
        self._mean_square += (1 - self._beta) * (return_A.square().mean().item() - self._mean_square)
        self._weight += (1 - self._beta) * (1 - self._weight)

    def normalise(self, returns_A: Tensor) -> Tensor:
        """float32[A], the returns as the critic is to predict them: (R − mean) / std."""
        return (returns_A.float() - self.mean) / self.std

    def denormalise(self, values_A: Tensor) -> Tensor:
        """float32[A], the critic's values in units of the returns: V · std + mean."""
        return values_A.float() * self.std + self.mean

    def state(self) -> dict[str, float]:
        """What `load` takes back, of JSON values."""
        return {"mean": self._mean, "mean_square": self._mean_square, "weight": self._weight}

    def load(self, state: dict[str, float]) -> None:
        """Replace what was seen by what `state` gave."""
        self._mean, self._mean_square, self._weight = state["mean"], state["mean_square"], state["weight"]


def _check(values_A: Tensor, *others_A: Tensor) -> None:
    for other_A in others_A:
        if values_A.ndim != 1 or other_A.shape != values_A.shape:
            raise ValueError(f"shapes {list(values_A.shape)} and {list(other_A.shape)} are not both [A]")
