"""Advantages: how much better a trajectory is than its rivals, an action than the others.

Legend: S trajectories of a batch, each with one reward; trajectories of one group share a group id. A their actions.
"""

import torch
from torch import Tensor

from .flat import segment_sum


def group_normalised(rewards_S: Tensor, group_ids_S: Tensor, eps: float = 1e-6) -> Tensor:
    """float32[S], the reward measured in standard deviations of its group: A = (r − mean_g) / (std_g + ε).

    Source: GRPO, arXiv 2402.03300, section 4.1.2. The paper leaves the estimator open; std_g is the sample standard
    deviation (divisor G − 1), as in TRL and verl. Where all rewards of a group are equal, a group of one included,
    nothing can be learned and A is exactly 0, whatever the rounding of the mean.

    rewards_S:   float32[S].
    group_ids_S: int64[S], any numbers in any order.
    """
    centred_S, group_S, size_G = _centred(rewards_S, group_ids_S)
    sum_G = segment_sum(centred_S.square(), group_S, len(size_G))
    std_G = (sum_G / (size_G - 1).clamp(min=1)).sqrt()
    return _scaled(centred_S, (std_G + eps)[group_S])


def group_centred(rewards_S: Tensor, group_ids_S: Tensor) -> Tensor:
    """float32[S], the reward above the mean of its group: A = r − mean_g.

    Source: Dr. GRPO, arXiv 2503.20783: dividing by std_g would favour prompts that are nearly always or nearly never
    solved. Exactly 0 where all rewards of a group are equal.

    rewards_S:   float32[S].
    group_ids_S: int64[S], any numbers in any order.
    """
    return _centred(rewards_S, group_ids_S)[0].float()


def leave_one_out(rewards_S: Tensor, group_ids_S: Tensor) -> Tensor:
    """float32[S], the reward above the mean of the others of its group: A = r_i − 1/(G−1) · Σ_{j≠i} r_j.

    Source: RLOO, arXiv 2402.14740. The baseline does not depend on r_i, hence no bias; A = G/(G−1) · (r_i − mean_g).
    Exactly 0 where all rewards of a group are equal, a group of one included.

    rewards_S:   float32[S].
    group_ids_S: int64[S], any numbers in any order.
    """
    centred_S, group_S, size_G = _centred(rewards_S, group_ids_S)
    return (centred_S * (size_G / (size_G - 1).clamp(min=1))[group_S]).float()


def group_centred_batch_scaled(rewards_S: Tensor, group_ids_S: Tensor, eps: float = 1e-6) -> Tensor:
    """float32[S], the reward above the mean of its group, in deviations of the batch: A = (r − mean_g) / (std_B + ε).

    Source: Lite PPO, arXiv 2508.08221: where a group hardly varies, std_g blows A up; the deviation of all rewards of
    the batch does not. std_B has divisor S − 1. Exactly 0 where all rewards of a group are equal.

    rewards_S:   float32[S].
    group_ids_S: int64[S], any numbers in any order.
    """
    centred_S, _, _ = _centred(rewards_S, group_ids_S)
    reward_S = rewards_S.double()
    sum_B = (reward_S - reward_S.mean()).square().sum()
    return _scaled(centred_S, (sum_B / max(len(reward_S) - 1, 1)).sqrt() + eps)


def batch_normalised(returns_A: Tensor, keep_A: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """float32[A], the return measured in standard deviations of the batch: A = (R − mean_B) / (std_B + ε).

    Source: REINFORCE++, arXiv 2501.03262; std_B has the number of actions for divisor, as in its authors' OpenRLHF.
    Dropped actions enter neither mean nor deviation and have advantage 0. REINFORCE++-baseline is `group_centred`,
    spread over the actions of each trajectory, then this.

    returns_A: float32[A].
    keep_A:    bool[A], false where an action counts for nothing, whatever its return; None keeps all.
    """
    keep_A = torch.ones_like(returns_A, dtype=torch.bool) if keep_A is None else keep_A
    if returns_A.ndim != 1 or returns_A.shape != keep_A.shape:
        raise ValueError(f"returns {list(returns_A.shape)} and keep {list(keep_A.shape)} are not both [A]")
    return_A = torch.where(keep_A, returns_A, 0.0).double()
    num_kept = keep_A.sum().clamp(min=1)
    centred_A = torch.where(keep_A, return_A - return_A.sum() / num_kept, 0.0)
    std = (centred_A.square().sum() / num_kept).sqrt()
    return _scaled(centred_A, std + eps)


def _centred(rewards_S: Tensor, group_ids_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r − mean_g float64[S], 0 where a group is of equal rewards; the group of each, int64[S]; group sizes, int64[G]."""
    if rewards_S.ndim != 1 or rewards_S.shape != group_ids_S.shape:
        raise ValueError(f"rewards {list(rewards_S.shape)} and group ids {list(group_ids_S.shape)} are not both [S]")
    _, group_S, size_G = torch.unique(group_ids_S, return_inverse=True, return_counts=True)
    reward_S = rewards_S.double()  # float32 would lose small differences between large rewards

    def extreme(reduce: str) -> Tensor:
        return reward_S.new_zeros(len(size_G)).scatter_reduce(0, group_S, reward_S, reduce, include_self=False)

    mean_G = segment_sum(reward_S, group_S, len(size_G)) / size_G
    flat_G = extreme("amin") == extreme("amax")
    return torch.where(flat_G[group_S], 0.0, reward_S - mean_G[group_S]), group_S, size_G


def _scaled(centred_X: Tensor, scale_X: Tensor) -> Tensor:
    """float32, centred / scale; 0 stays 0 though the scale be 0."""
    return torch.where(centred_X == 0.0, 0.0, centred_X / scale_X).float()
