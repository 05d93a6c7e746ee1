import math

import pytest
import torch

from areal.learner.algorithm.behaviour import Action, Level, Weights, kl_budget_mask, second_moment_mask, weigh

# trajectory 0: w = 2, 8, 0.5 (Π 8, geometric mean 2, mean 3.5); 1: w = 0.9, 1.6 (Π 1.44, 1.2, 1.25); 2: nothing is kept
W = torch.tensor([2.0, 0.9, 8.0, math.nan, 1.6, 0.5, 5.0])
SEGMENTS = torch.tensor([0, 1, 0, 1, 1, 0, 2])
KEEP = torch.tensor([True, True, True, False, True, True, False])


def found(level: Level, action: Action, low: float, high: float) -> tuple[list[float], list[bool]]:
    weights = weigh(W.log(), SEGMENTS, 3, KEEP, level=level, action=action, low=low, high=high)
    assert not weights.weight_A[~KEEP].any() and not weights.limited_A[~KEEP].any()
    return weights.weight_A[KEEP].tolist(), weights.limited_A[KEEP].tolist()


# the kept actions are w = 2, 0.9, 8, 1.6, 0.5 of trajectories 0, 1, 0, 1, 0
@pytest.mark.parametrize(
    ("level", "action", "low", "high", "weights", "limited"),
    [
        pytest.param("token", "off", 0.5, 2.0, [1, 1, 1, 1, 1], "", id="off"),
        pytest.param("token", "truncate", 1.0, 1.9, [1.9, 0.9, 1.9, 1.6, 0.5], "0 2", id="token truncated above only"),
        pytest.param("sequence", "truncate", 0.0, 3.0, [3, 1.44, 3, 1.44, 3], "0 2 4", id="sequence truncated"),
        pytest.param("sequence", "truncate", 0.0, 1.1, [1.1] * 5, "0 1 2 3 4", id="every sequence truncated"),
        pytest.param("geometric", "truncate", 0.0, 1.5, [1.5, 1.2, 1.5, 1.2, 1.5], "0 2 4", id="geometric truncated"),
        pytest.param("mean", "truncate", 0.0, 3.0, [3, 1.25, 3, 1.25, 3], "0 2 4", id="mean truncated"),
        pytest.param("geometric", "truncate", 0.0, 9.0, [2, 1.2, 2, 1.2, 2], "", id="geometric, high enough"),
        pytest.param("token", "mask", 0.7, 3.0, [2, 0.9, 0, 1.6, 0], "2 4", id="token masked on both sides"),
        pytest.param("sequence", "mask", 1.0, 7.0, [0, 0.9, 0, 1.6, 0], "0 2 4", id="sequence masked above"),
        pytest.param("sequence", "mask", 2.0, 9.0, [2, 0, 8, 0, 0.5], "1 3", id="sequence masked below"),
        pytest.param("geometric", "mask", 1.1, 1.3, [0, 0.9, 0, 1.6, 0], "0 2 4", id="geometric masked"),
        pytest.param("mean", "mask", 1.3, 4.0, [2, 0, 8, 0, 0.5], "1 3", id="mean masked"),
        pytest.param("mean", "mask", 5.0, 6.0, [0, 0, 0, 0, 0], "0 1 2 3 4", id="all masked"),
    ],
)
def test_weights_pinned_by_hand(
    level: Level, action: Action, low: float, high: float, weights: list[float], limited: str
) -> None:
    weight, limit = found(level, action, low, high)
    assert weight == pytest.approx(weights, rel=1e-5)
    assert [i for i, one in enumerate(limit) if one] == [int(i) for i in limited.split()]


@pytest.mark.parametrize(
    ("level", "weights", "limited"),
    [
        pytest.param("sequence", [2, 0, 3, 0, 0.5], "1 2 3", id="of a trajectory that is let in"),
        pytest.param("token", [2, 0, 8, 0, 0], "1 3 4", id="not of a token, which has bounds of its own"),
    ],
)
def test_a_token_that_a_mask_lets_through_is_capped(level: Level, weights: list[float], limited: str) -> None:
    found = weigh(W.log(), SEGMENTS, 3, KEEP, level=level, action="mask", low=2.0, high=9.0, cap=3.0)
    assert found.weight_A[KEEP].tolist() == pytest.approx(weights, rel=1e-5)
    assert found.limited_A[KEEP].nonzero().flatten().tolist() == [int(i) for i in limited.split()]


def test_a_bound_itself_is_within() -> None:
    weights = weigh(torch.zeros(2), torch.tensor([0, 1]), 2, KEEP[:2], level="token", action="mask", low=1.0, high=1.0)
    assert weights.weight_A.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("level", ["token", "sequence", "geometric", "mean"])
@pytest.mark.parametrize("action", ["off", "truncate", "mask"])
@pytest.mark.parametrize("log_w", [-20.0, 20.0])
def test_weights_stay_finite_and_carry_no_gradient(level: Level, action: Action, log_w: float) -> None:
    log_w_A = torch.full((500,), log_w, requires_grad=True)
    segments, keep = torch.zeros(500, dtype=torch.long), torch.ones(500, dtype=torch.bool)
    weights: Weights = weigh(log_w_A, segments, 1, keep, level=level, action=action, low=0.5, high=2.0)
    assert weights.weight_A.isfinite().all() and not weights.weight_A.requires_grad
    assert weights.limited_A.all() == (action == "mask" or (action == "truncate" and log_w > 0))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 2.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 2.0)])
def test_refuses_bounds_that_bound_nothing(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="bounds of the behaviour weight"):
        weigh(
            torch.zeros(1),
            torch.zeros(1, dtype=torch.long),
            1,
            KEEP[:1],
            level="token",
            action="mask",
            low=low,
            high=high,
        )


# squares 0.01, 0.04, 0.09, 0.25 in some order: means of the smallest 0.01, 0.025, 0.046667, 0.0975
@pytest.mark.parametrize(
    ("threshold", "kept"),
    [(0.1, [0, 1, 3, 4]), (0.09, [0, 3, 4]), (0.04, [0, 4]), (0.02, [4]), (0.005, []), (math.inf, [0, 1, 3, 4])],
)
def test_the_second_moment_is_brought_under_its_threshold(threshold: float, kept: list[int]) -> None:
    log_w, keep = torch.tensor([-0.2, 0.5, math.nan, -0.3, 0.1, 0.0]), torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    assert second_moment_mask(log_w, keep, threshold).nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("seed", range(5))
def test_the_second_moment_mask_equals_a_loop_that_drops_the_largest(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_w, keep = torch.randn(100, generator=generator), torch.rand(100, generator=generator) < 0.8
    left = [i for i in range(100) if keep[i]]
    num_kept = len(left)
    while sum(log_w[i].item() ** 2 for i in left) / len(left) > 0.3:
        left.remove(max(left, key=lambda i: abs(log_w[i].item())))
    assert 0 < len(left) < num_kept
    assert second_moment_mask(log_w, keep, 0.3).nonzero().flatten().tolist() == left


def test_a_second_moment_of_nothing_is_nothing() -> None:
    assert second_moment_mask(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 0.04).tolist() == []
    assert second_moment_mask(torch.zeros(2), torch.tensor([False, False]), 0.04).tolist() == [False, False]


# w − 1 − log w: trajectory 0 spends 0.306853 + 4.920558 + 0.193147 = 5.420558, 1 0.005361 + 0.129996 = 0.135357
@pytest.mark.parametrize(
    ("budget", "kept"), [(5.421, [0, 1, 2, 4, 5]), (5.420, [1, 4]), (0.1354, [1, 4]), (0.1353, [])]
)
def test_a_trajectory_beyond_its_kl_budget_goes_whole(budget: float, kept: list[int]) -> None:
    assert kl_budget_mask(W - 1 - W.log(), SEGMENTS, 3, KEEP, budget).nonzero().flatten().tolist() == kept


def test_equal_policies_spend_nothing() -> None:
    assert kl_budget_mask(torch.zeros(7), SEGMENTS, 3, KEEP, 0.0).tolist() == KEEP.tolist()


def test_only_a_mask_has_a_lower_bound() -> None:
    log_w, segments = torch.tensor([0.0, -2.0]), torch.zeros(2, dtype=torch.long)
    found = weigh(
        log_w, segments, 1, torch.ones(2, dtype=torch.bool), level="token", action="truncate", low=0.5, high=0.3
    )
    assert found.weight_A.tolist() == pytest.approx([0.3, math.exp(-2.0)])
