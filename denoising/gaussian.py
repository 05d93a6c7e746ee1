"""The Gaussian that a step of a consistency model draws from. Pure functions.

Legend: M steps, of one image or of many; D… the dimensions of a latent.
"""

import math

from torch import Tensor


def log_density(x_MD: Tensor, mean_MD: Tensor, std_M: Tensor) -> Tensor:
    """float32[M], log N(x; mean, std²·I), summed over the dimensions of each.

        ℓ = −½·Σ_d ((x_d − μ_d)/s)² − D·(log s + ½·log 2π)

    A sum and no mean: the mean, which DDPO, RLCM and Flow-GRPO take, makes every ratio of densities about 1, whatever
    the policies, and so corrects nothing. The sum is made in float64: of 37,000 dimensions float32 would lose hundredths.
    """
    std_M = std_M.double()
    dimensions = x_MD[0].numel()
    squares_M = squared_distance(x_MD, mean_MD) / std_M.square()
    return (-0.5 * squares_M - dimensions * (std_M.log() + 0.5 * math.log(2 * math.pi))).float()


def divergence(mean_MD: Tensor, other_MD: Tensor, std_M: Tensor) -> Tensor:
    """float32[M], KL of two Gaussians with the same deviation, in nats and in closed form.

    KL = ‖μ − μ'‖² / 2s²
    """
    return (squared_distance(mean_MD, other_MD) / (2 * std_M.double().square())).float()


def entropy(std_M: Tensor, dimensions: int) -> Tensor:
    """float32[M], in nats: D·(log s + ½·log 2πe), the same whatever the policy."""
    return (dimensions * (std_M.double().log() + 0.5 * math.log(2 * math.pi * math.e))).float()


def squared_distance(left_MD: Tensor, right_MD: Tensor) -> Tensor:
    """float64[M], ‖left − right‖² of each."""
    return (left_MD - right_MD).flatten(1).double().square().sum(1)


def like(values_M: Tensor, x_MD: Tensor) -> Tensor:
    """The values, to be multiplied with each of x's rows."""
    return values_M.reshape(-1, *[1] * (x_MD.ndim - 1))
