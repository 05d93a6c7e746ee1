import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from areal.denoising.gaussian import divergence, entropy, log_density


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_density_by_hand() -> None:
    """Of two dimensions, one of which lies a deviation (2) off its mean: -1/2 - 2*(ln 2 + ln(2*pi)/2)."""
    found = log_density(torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 5.0]]), torch.tensor([2.0]))
    assert found.item() == pytest.approx(-0.5 - 2 * math.log(2) - math.log(2 * math.pi), abs=1e-6)


def test_a_density_is_the_sum_over_dimensions() -> None:
    x, mean, std = drawn(5, 4, 8, 8), drawn(5, 4, 8, 8, seed=1), torch.tensor([0.1, 0.5, 1.0, 2.0, 80.0])
    wanted = Normal(mean.double(), std.double().reshape(-1, 1, 1, 1)).log_prob(x.double()).sum((1, 2, 3))
    found = log_density(x, mean, std)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-7, atol=1e-4)


def test_a_ratio_in_many_dimensions_is_exact_to_the_float() -> None:
    """Of 36,864, where the densities themselves are in the ten thousands."""
    mean, std = drawn(1, 4, 96, 96), torch.tensor([0.9])
    x = mean + 0.9 * drawn(1, 4, 96, 96, seed=2)
    other = mean + 1e-3 * drawn(1, 4, 96, 96, seed=3)
    wide = [Normal(each.double(), 0.9).log_prob(x.double()).sum() for each in (mean, other)]
    found = log_density(x, other, std) - log_density(x, mean, std)
    assert found.item() == pytest.approx((wide[1] - wide[0]).item(), abs=8e-3)  # two floats near 50,000


def test_a_divergence_is_that_of_the_distributions() -> None:
    mean, other, std = drawn(3, 6), drawn(3, 6, seed=1), torch.tensor([0.3, 1.0, 4.0])
    wanted = kl_divergence(Normal(mean, std[:, None]), Normal(other, std[:, None])).sum(1)
    torch.testing.assert_close(divergence(mean, other, std), wanted)


def test_the_share_that_weights_leave_is_that_of_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, other, std = torch.zeros(1, 3), torch.full((1, 3), 0.2), torch.tensor([1.0])
    x = torch.randn(200_000, 3, generator=generator)
    ones = std.expand(len(x))
    weights = (log_density(x, other.expand_as(x), ones) - log_density(x, mean.expand_as(x), ones)).exp()
    share = weights.sum() ** 2 / weights.square().sum() / len(x)
    assert math.exp(-2 * divergence(mean, other, std).item()) == pytest.approx(share.item(), rel=0.01)


def test_an_entropy_is_that_of_the_distribution() -> None:
    std = torch.tensor([0.3, 1.0])
    wanted = 6 * Normal(torch.zeros(2), std).entropy()
    torch.testing.assert_close(entropy(std, 6), wanted)
