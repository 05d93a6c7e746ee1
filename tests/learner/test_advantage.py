import pytest
import torch

from areal.learner.advantage import group_normalised


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
