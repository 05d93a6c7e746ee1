"""Returns: the rewards that follow an action, discounted; with a critic, how far they beat its values.

Legend: A actions of a batch laid flat; those of a trajectory are in order and side by side. `segment_ids_A` int64[A]
names the trajectory of each. A turn is a run of actions of a trajectory at consecutive positions: what the environment
says between two turns leaves a gap.
"""

import torch
from torch import Tensor


def reward_to_go(rewards_A: Tensor, segment_ids_A: Tensor, gamma_A: Tensor) -> Tensor:
    """float32[A], the discounted rewards from each action on: G_t = r_t + γ_t · G_{t+1}, and G after the last is 0.

    Source: REINFORCE with reward to go, Sutton and Barto, 2nd edition, section 13.3, with a discount for each step.

    rewards_A:     float32[A], the reward of each action; an outcome reward stands at the last of its trajectory.
    segment_ids_A: int64[A].
    gamma_A:       float32[A], γ_t between an action and the next of its trajectory; at the last, any number.
    """
    _check(segment_ids_A, rewards_A, gamma_A)
    return _discounted(rewards_A, gamma_A, segment_ids_A).float()


def gae(
    rewards_A: Tensor, values_A: Tensor, segment_ids_A: Tensor, *, gamma_A: Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """The generalised advantages float32[A] and the returns float32[A] for the critic: A_t = δ_t + γ_t · λ · A_{t+1}.

    δ_t = r_t + γ_t · V_{t+1} − V_t, the return is A_t + V_t, and both A and V are 0 after the last action: it ends the
    episode. λ = 1 gives `reward_to_go` − V, λ = 0 gives δ.

    Source: Schulman et al., arXiv 1506.02438, eq. 16.

    rewards_A:     float32[A], as in `reward_to_go`.
    values_A:      float32[A], the critic's value of the state in which the action was taken; no gradient flows back.
    segment_ids_A: int64[A].
    gamma_A:       float32[A], as in `reward_to_go`.
    lam:           λ in [0, 1]: how far to trust rewards over values.
    """
    _check(segment_ids_A, rewards_A, values_A, gamma_A)
    value_A, gamma_A = values_A.detach().double(), gamma_A.double()
    next_value_A = torch.zeros_like(value_A)
    next_value_A[:-1] = torch.where(segment_ids_A[1:] == segment_ids_A[:-1], value_A[1:], 0.0)
    delta_A = rewards_A.double() + gamma_A * next_value_A - value_A
    advantage_A = _discounted(delta_A, gamma_A * lam, segment_ids_A)
    return advantage_A.float(), (advantage_A + value_A).float()


def turns_after(positions_A: Tensor, segment_ids_A: Tensor) -> Tensor:
    """int64[A], how many turns of the trajectory come after the turn of each action; 0 in the last.

    positions_A:   int64[A], where the action's token stands in its trajectory; increasing.
    segment_ids_A: int64[A].
    """
    ends_A = _turn_ends(positions_A, segment_ids_A)
    return _discounted(ends_A, torch.ones_like(ends_A), segment_ids_A).long()


def turn_discounts(turns_after_A: Tensor, gamma: float) -> Tensor:
    """float32[A], γ^n where n turns come after: the share of the outcome that reaches the turn of each action.

    turns_after_A: int64[A], of `turns_after`.
    gamma:         γ in [0, 1]; 0 credits the last turn alone.
    """
    return torch.pow(gamma, turns_after_A.double()).float()


def turn_gammas(positions_A: Tensor, segment_ids_A: Tensor, *, token_gamma: float, turn_gamma: float) -> Tensor:
    """float32[A], the discount between each action and the next: `turn_gamma` where a turn ends, else `token_gamma`.

    With token_gamma = 1 and the outcome at the last action, `reward_to_go` is the outcome times `turn_discounts`.

    positions_A:   int64[A], where the action's token stands in its trajectory; increasing.
    segment_ids_A: int64[A].
    """
    ends_A = _turn_ends(positions_A, segment_ids_A)
    return torch.where(ends_A, turn_gamma, token_gamma).float()


def _turn_ends(positions_A: Tensor, segment_ids_A: Tensor) -> Tensor:
    """bool[A], whether the action is the last of its turn and another turn of its trajectory follows."""
    _check(segment_ids_A, positions_A)
    ends_A = torch.zeros_like(positions_A, dtype=torch.bool)
    ends_A[:-1] = (segment_ids_A[1:] == segment_ids_A[:-1]) & (positions_A[1:] != positions_A[:-1] + 1)
    return ends_A


@torch.no_grad()
def _discounted(terms_A: Tensor, factors_A: Tensor, segment_ids_A: Tensor) -> Tensor:
    """float64[A], x_t = term_t + factor_t · x_{t+1} within each trajectory, where x after the last is 0.

    By doubling (Hillis and Steele, 1986): once x_t sums the terms of d steps and f_t is the product of their factors,
    x_t + f_t · x_{t+d} sums those of 2d. A trajectory of 10,000 actions takes 14 rounds, each a few operations on A.
    """
    sum_A, factor_A = (given_A.to(torch.float64, copy=True) for given_A in (terms_A, factors_A))
    step = 1
    while (same_A := segment_ids_A[:-step] == segment_ids_A[step:]).any():
        sum_A[:-step] += torch.where(same_A, factor_A[:-step] * sum_A[step:], 0.0)
        factor_A[:-step] = factor_A[:-step] * factor_A[step:]
        step *= 2
    return sum_A


def _check(segment_ids_A: Tensor, *others_A: Tensor) -> None:
    for other_A in others_A:
        if segment_ids_A.ndim != 1 or other_A.shape != segment_ids_A.shape:
            raise ValueError(f"segment ids {list(segment_ids_A.shape)} and {list(other_A.shape)} are not both [A]")
    if len(segment_ids_A.unique_consecutive()) != len(segment_ids_A.unique()):
        raise ValueError("the actions of a trajectory are not side by side: a segment id returns after another")
