import pytest
import torch
from torch import Tensor

from areal.learner.algorithm.returns import gae, reward_to_go, turn_discounts, turn_gammas, turns_after

# trajectory 7: turns at positions 3-4, 8-10 and 12; trajectory 2: one turn; trajectory 5: one action
POSITIONS = torch.tensor([3, 4, 8, 9, 10, 12, 5, 6, 7])
SEGMENTS = torch.tensor([7, 7, 7, 7, 7, 7, 2, 2, 5])


def trajectories(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, gammas and segment ids."""
    generator = torch.Generator().manual_seed(seed)
    size = sum(lengths)
    segments = torch.tensor([s for s, length in enumerate(lengths) for _ in range(length)], dtype=torch.int64)
    rewards, values = torch.randn(2, size, generator=generator)
    return rewards, values, 0.8 + 0.2 * torch.rand(size, generator=generator), segments


def test_reward_to_go_pinned_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    segments = torch.tensor([9, 9, 9, -1, -1])
    gammas = torch.tensor([0.5, 0.25, 9.0, 0.1, 9.0])
    # 2 + 4/4 = 3, 1 + 3/2 = 2.5; 8 + 16/10 = 9.6; the discounts at the ends count for nothing
    assert reward_to_go(rewards, segments, gammas).tolist() == pytest.approx([2.5, 3.0, 4.0, 9.6, 16.0])


def test_gae_pinned_by_hand() -> None:
    rewards = torch.tensor([0.0, 1.0, 5.0])
    values = torch.tensor([2.0, 4.0, 3.0])
    gammas = torch.tensor([0.5, 1.0, 1.0])
    # δ = 0 + 4/2 − 2 = 0, 1 − 4 = −3, 5 − 3 = 2; A_0 = 0 + 0.5·0.8·(−3) = −1.2
    advantages, returns = gae(rewards, values, torch.tensor([0, 0, 1]), gamma_A=gammas, lam=0.8)
    assert advantages.tolist() == pytest.approx([-1.2, -3.0, 2.0])
    assert returns.tolist() == pytest.approx([0.8, 1.0, 5.0])


@pytest.mark.parametrize("lengths", [[1], [2], [1, 1, 1], [5, 1, 17, 8, 2], [64, 63, 65], [130]])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_equals_a_loop_from_the_end(lengths: list[int], lam: float) -> None:
    rewards, values, gammas, segments = trajectories(lengths)
    expected_returns, expected_advantages = [0.0] * len(rewards), [0.0] * len(rewards)
    for t in reversed(range(len(rewards))):
        last = t + 1 == len(rewards) or segments[t + 1] != segments[t]
        gamma = gammas[t].item()
        next_return, next_advantage, next_value = (
            (0.0, 0.0, 0.0) if last else (expected_returns[t + 1], expected_advantages[t + 1], values[t + 1].item())
        )
        expected_returns[t] = rewards[t].item() + gamma * next_return
        delta = rewards[t].item() + gamma * next_value - values[t].item()
        expected_advantages[t] = delta + gamma * lam * next_advantage
    advantages, returns = gae(rewards, values, segments, gamma_A=gammas, lam=lam)
    torch.testing.assert_close(reward_to_go(rewards, segments, gammas), torch.tensor(expected_returns))
    torch.testing.assert_close(advantages, torch.tensor(expected_advantages))
    torch.testing.assert_close(returns, torch.tensor(expected_advantages) + values)


def test_a_long_undiscounted_outcome_reaches_the_first_action_whole() -> None:
    rewards = torch.zeros(40_000)
    rewards[-1] = 0.1
    ones, segments = torch.ones(40_000), torch.zeros(40_000, dtype=torch.int64)
    returns = reward_to_go(rewards, segments, ones)
    assert (returns == rewards[-1]).all() and returns.dtype == torch.float32


def test_inputs_stay_as_they_were_and_no_gradient_flows() -> None:
    rewards, values, gammas, segments = trajectories([3, 4])
    before = rewards.double()
    given = rewards.double()
    advantages, returns = gae(given, values.requires_grad_(), segments, gamma_A=gammas.double(), lam=0.9)
    assert not advantages.requires_grad and not returns.requires_grad and advantages.dtype == torch.float32
    assert not reward_to_go(given.requires_grad_(), segments, gammas).requires_grad
    assert given.tolist() == before.tolist()


def test_what_is_not_a_number_stays_in_its_trajectory() -> None:
    rewards = torch.tensor([1.0, 2.0, float("nan"), 3.0, 4.0])
    segments = torch.tensor([0, 0, 1, 2, 2])
    returns = reward_to_go(rewards, segments, torch.ones(5))
    assert returns[[0, 1, 3, 4]].tolist() == [3.0, 2.0, 7.0, 4.0]


def test_turns_after_pinned_by_hand() -> None:
    assert turns_after(POSITIONS, SEGMENTS).tolist() == [2, 2, 1, 1, 1, 0, 0, 0, 0]


def test_neighbours_of_two_trajectories_are_two_turns() -> None:
    assert turns_after(torch.tensor([4, 5, 6]), torch.tensor([0, 1, 1])).tolist() == [0, 0, 0]


def test_turn_discounts_pinned_by_hand() -> None:
    assert turn_discounts(torch.tensor([2, 1, 0]), 0.5).tolist() == [0.25, 0.5, 1.0]
    assert turn_discounts(torch.tensor([2, 1, 0]), 0.0).tolist() == [0.0, 0.0, 1.0]
    assert turn_discounts(torch.tensor([2, 1, 0]), 0.5).dtype == torch.float32


def test_turn_gammas_pinned_by_hand() -> None:
    gammas = turn_gammas(POSITIONS, SEGMENTS, token_gamma=0.75, turn_gamma=0.5)
    assert gammas.tolist() == [0.75, 0.5, 0.75, 0.75, 0.5, 0.75, 0.75, 0.75, 0.75]
    assert gammas.dtype == torch.float32


def test_an_outcome_to_go_is_the_outcome_times_the_discounts() -> None:
    rewards = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, -1.0, 2.0])
    outcomes = torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 3.0, -1.0, -1.0, 2.0])
    returns = reward_to_go(rewards, SEGMENTS, turn_gammas(POSITIONS, SEGMENTS, token_gamma=1.0, turn_gamma=0.7))
    torch.testing.assert_close(returns, outcomes * turn_discounts(turns_after(POSITIONS, SEGMENTS), 0.7))


def test_nothing_in_nothing_out() -> None:
    none, ids = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert reward_to_go(none, ids, none).shape == (0,)
    assert gae(none, none, ids, gamma_A=none, lam=0.9)[1].shape == (0,)
    assert turns_after(ids, ids).shape == turn_gammas(ids, ids, token_gamma=1.0, turn_gamma=1.0).shape == (0,)


def test_refuses_shapes_that_do_not_match() -> None:
    ids = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"segment ids \[3\] and \[2\]"):
        reward_to_go(torch.zeros(2), ids, torch.zeros(3))
    with pytest.raises(ValueError, match=r"segment ids \[3\] and \[1\]"):
        gae(torch.zeros(3), torch.zeros(1), ids, gamma_A=torch.zeros(3), lam=1.0)
    with pytest.raises(ValueError, match=r"segment ids \[3\] and \[2\]"):
        turns_after(torch.zeros(2, dtype=torch.int64), ids)


def test_refuses_a_trajectory_in_pieces() -> None:
    with pytest.raises(ValueError, match="side by side"):
        reward_to_go(torch.zeros(3), torch.tensor([0, 1, 0]), torch.ones(3))
