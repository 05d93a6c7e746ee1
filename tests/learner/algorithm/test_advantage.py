import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from areal.learner.algorithm.advantage import (
    batch_normalised,
    group_centred,
    group_centred_batch_scaled,
    group_normalised,
    leave_one_out,
)

GROUP_FUNCTIONS = [group_normalised, group_centred, leave_one_out, group_centred_batch_scaled]


def test_pinned_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 4.0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    # group 0: mean 1/4, sample variance (9/16 + 3/16)/3 = 1/4; group 1: mean 3, sample variance 2
    expected = [1.5, -0.5, -0.5, -0.5, -(0.5**0.5), 0.5**0.5]
    assert group_normalised(rewards, groups).tolist() == pytest.approx(expected, abs=1e-5)


def test_eps_is_added_to_the_deviation() -> None:
    advantages = group_normalised(torch.tensor([0.0, 2.0]), torch.tensor([0, 0]), eps=1.0)
    assert advantages.tolist() == pytest.approx([-1 / (1 + 2**0.5), 1 / (1 + 2**0.5)])


def test_groups_may_interleave_and_bear_any_number() -> None:
    together = group_normalised(torch.tensor([1.0, 2.0, 5.0, 3.0]), torch.tensor([0, 0, 1, 1]))
    apart = group_normalised(torch.tensor([5.0, 1.0, 3.0, 2.0]), torch.tensor([-7, 10**12, -7, 10**12]))
    assert apart.tolist() == together[[2, 0, 3, 1]].tolist()


@pytest.mark.parametrize("reward", [0.0, 0.1, -3.7e8, 1e-30])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_group_without_variance_is_exactly_zero(reward: float, size: int) -> None:
    rewards = torch.tensor([reward] * size + [0.0, 1.0])
    groups = torch.tensor([3] * size + [5, 5])
    assert group_normalised(rewards, groups)[:size].tolist() == [0.0] * size


def test_a_small_spread_on_a_large_reward_survives() -> None:
    advantages = group_normalised(torch.tensor([4096.0, 4096.5]), torch.tensor([0, 0]))
    assert advantages.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-4)


def test_equals_a_loop_over_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 9, (64,), generator=generator)
    rewards = torch.randn(64, generator=generator)
    expected = torch.empty(64)
    for group in groups.unique():
        rewards_G = rewards[groups == group]
        expected[groups == group] = (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-6)
    torch.testing.assert_close(group_normalised(rewards, groups), expected, rtol=1e-5, atol=1e-6)


def test_nothing_in_nothing_out() -> None:
    assert group_normalised(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"rewards \[2\] and group ids \[3\]"):
        group_normalised(torch.zeros(2), torch.zeros(3, dtype=torch.int64))


def test_centred_pinned_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 4.0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    assert group_centred(rewards, groups).tolist() == [0.75, -0.25, -0.25, -0.25, -1.0, 1.0]


def test_leave_one_out_pinned_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 4.0, 9.0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    # group 0: the others of the 1 have mean 0, those of a 0 mean 1/3; group 1: 2 − 4 and 4 − 2; group 2: alone
    expected = [1.0, -1 / 3, -1 / 3, -1 / 3, -2.0, 2.0, 0.0]
    assert leave_one_out(rewards, groups).tolist() == pytest.approx(expected)


def test_batch_scaled_pinned_by_hand() -> None:
    rewards = torch.tensor([1.0, 3.0, 5.0, 7.0])
    groups = torch.tensor([0, 0, 1, 1])
    # means 2 and 6; of the batch: mean 4, sample variance (9 + 1 + 1 + 9)/3 = 20/3
    expected = [-((3 / 20) ** 0.5), (3 / 20) ** 0.5, -((3 / 20) ** 0.5), (3 / 20) ** 0.5]
    assert group_centred_batch_scaled(rewards, groups, eps=0.0).tolist() == pytest.approx(expected)


def test_batch_scaled_adds_eps_to_the_deviation() -> None:
    advantages = group_centred_batch_scaled(torch.tensor([0.0, 2.0]), torch.tensor([0, 0]), eps=1.0)
    assert advantages.tolist() == pytest.approx([-1 / (1 + 2**0.5), 1 / (1 + 2**0.5)])


@pytest.mark.parametrize("function", GROUP_FUNCTIONS)
@pytest.mark.parametrize("reward", [0.1, -3.7e8])
@pytest.mark.parametrize("size", [1, 3])
def test_every_group_function_is_exactly_zero_without_variance(
    function: Callable[[Tensor, Tensor], Tensor], reward: float, size: int
) -> None:
    rewards = torch.tensor([reward] * size + [0.0, 1.0], dtype=torch.float64)
    groups = torch.tensor([3] * size + [5, 5])
    assert function(rewards, groups)[:size].tolist() == [0.0] * size
    assert function(rewards[:size], groups[:size]).tolist() == [0.0] * size


@pytest.mark.parametrize("function", GROUP_FUNCTIONS)
def test_every_group_function_gives_float32_and_checks_shapes(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert function(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert function(torch.ones(2, dtype=torch.float64), torch.tensor([0, 1])).dtype == torch.float32
    with pytest.raises(ValueError, match=r"rewards \[2\] and group ids \[3\]"):
        function(torch.zeros(2), torch.zeros(3, dtype=torch.int64))


def test_group_functions_equal_loops_over_trajectories() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(0, 9, (64,), generator=generator)
    rewards = torch.randn(64, generator=generator)
    centred, alone, scaled = torch.zeros(64), torch.zeros(64), torch.zeros(64)
    for i in range(64):
        rivals = [rewards[j].item() for j in range(64) if groups[j] == groups[i]]
        others = [rewards[j].item() for j in range(64) if groups[j] == groups[i] and j != i]
        centred[i] = rewards[i] - sum(rivals) / len(rivals)
        alone[i] = rewards[i] - sum(others) / len(others)
        scaled[i] = centred[i] / (statistics.stdev(rewards.tolist()) + 1e-6)
    torch.testing.assert_close(group_centred(rewards, groups), centred)
    torch.testing.assert_close(leave_one_out(rewards, groups), alone)
    torch.testing.assert_close(group_centred_batch_scaled(rewards, groups), scaled)


def test_batch_normalised_pinned_by_hand() -> None:
    # mean 4, variance (9 + 1 + 1 + 9)/4 = 5
    advantages = batch_normalised(torch.tensor([1.0, 3.0, 5.0, 7.0]), eps=0.0)
    assert advantages.tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5])
    assert batch_normalised(torch.tensor([0.0, 2.0]), eps=1.0).tolist() == pytest.approx([-0.5, 0.5])


def test_batch_normalised_leaves_dropped_actions_out() -> None:
    returns = torch.tensor([1.0, float("nan"), 3.0, 1e9])
    advantages = batch_normalised(returns, torch.tensor([True, False, True, False]))
    assert advantages.tolist() == pytest.approx([-1.0, 0.0, 1.0, 0.0], abs=2e-6)


@pytest.mark.parametrize("returns", [[], [2.0], [0.1, 0.1, 0.1]])
def test_batch_normalised_without_variance_is_zero(returns: list[float]) -> None:
    assert batch_normalised(torch.tensor(returns)).tolist() == [0.0] * len(returns)
    nothing_kept = torch.zeros(len(returns), dtype=torch.bool)
    assert batch_normalised(torch.tensor(returns), nothing_kept).tolist() == [0.0] * len(returns)


def test_batch_normalised_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"returns \[2\] and keep \[3\]"):
        batch_normalised(torch.zeros(2), torch.ones(3, dtype=torch.bool))
