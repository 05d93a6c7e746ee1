import math

import pytest
import torch

from areal.learner.algorithm.age import Law, Rule, clip_scale, interpolated_prox, old_mask


@pytest.mark.parametrize(
    ("law", "scales"),
    [
        ("none", [1.0, 1.0, 1.0, 1.0]),
        ("inverse", [1.0, 1.0, 2 / 3, 1 / 3]),
        ("sqrt", [1.0, 1.0, math.sqrt(2 / 3), math.sqrt(1 / 3)]),
        ("exponential", [1.0, 1.0, math.exp(-0.5), math.exp(-2.0)]),
    ],
)
def test_clip_ranges_pinned_by_hand(law: Law, scales: list[float]) -> None:
    found = clip_scale(torch.tensor([-3, 0, 1, 4]), law, 0.5)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(scales, rel=1e-6)
    assert clip_scale(torch.tensor([0, 9]), law, 0.0).tolist() == [1.0, 1.0]


# versions 10 (the proximal policy's own), 9, 6 and 11 (none can be above): a = age/(age + progress)
@pytest.mark.parametrize(
    ("progress", "shares"),
    [
        pytest.param(0.0, [1.0, 1.0, 1.0, 1.0], id="π_θ is still π_prox"),
        pytest.param(0.25, [0.0, 0.8, 16 / 17, 0.0], id="one of four minibatches on"),
        pytest.param(1.0, [0.0, 0.5, 0.8, 0.0], id="one version on"),
    ],
)
def test_the_proximal_policy_lies_between(progress: float, shares: list[float]) -> None:
    theta, behaviour = (
        torch.tensor([-1.0, -1.0, -2.0, -3.0], requires_grad=True),
        torch.tensor([-2.0, -2.0, -1.0, -1.0]),
    )
    found = interpolated_prox(theta, behaviour, torch.tensor([10, 9, 6, 11]), version=10, progress=progress)
    gaps = [1.0, 1.0, -1.0, -2.0]
    expected = [b + a * gap for b, a, gap in zip(behaviour.tolist(), shares, gaps, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert not found.requires_grad


def test_the_proximal_policy_is_exact_where_the_log_probability_moves_evenly() -> None:
    """log π falls by 0.3 a version: the weights of version 10 are found from those of version 7 and of version 10.5."""
    theta, behaviour = torch.tensor([-1.0 - 0.3 * 10.5]), torch.tensor([-1.0 - 0.3 * 7])
    found = interpolated_prox(theta, behaviour, torch.tensor([7]), version=10, progress=0.5)
    assert found.item() == pytest.approx(-4.0, rel=1e-6)


@pytest.mark.parametrize("progress", [-0.1, 1.5, math.nan])
def test_refuses_progress_beyond_the_step(progress: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        interpolated_prox(torch.zeros(1), torch.zeros(1), torch.zeros(1), version=1, progress=progress)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("keep", [0, 1, 2, 3, 4, 5]), ("mask", [0, 1, 3, 5]), ("drop", [1, 3])],
)
def test_old_tokens_go_by_rule(rule: Rule, kept: list[int]) -> None:
    ages, segments = torch.tensor([0, 4, 5, -1, 9, 2]), torch.tensor([0, 1, 0, 1, 2, 2])
    assert old_mask(ages, segments, 3, bound=4, rule=rule).nonzero().flatten().tolist() == kept
