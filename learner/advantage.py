"""Advantages: how much better a trajectory is than its rivals.

Legend: S trajectories of a batch, each with one reward; trajectories of one group share a group id.
"""

import torch
from torch import Tensor


def group_normalised(rewards_S: Tensor, group_ids_S: Tensor, eps: float = 1e-6) -> Tensor:
    """float32[S], the reward measured in standard deviations of its group: A = (r − mean_g) / (std_g + ε).

    Source: GRPO, arXiv 2402.03300, section 4.1.2. The paper leaves the estimator open; std_g is the sample standard
    deviation (divisor G − 1), as in TRL and verl. Where all rewards of a group are equal, a group of one included,
    nothing can be learned and A is exactly 0, whatever the rounding of the mean.

    rewards_S:   float32[S].
    group_ids_S: int64[S], any numbers in any order.
    """
    if rewards_S.ndim != 1 or rewards_S.shape != group_ids_S.shape:
        raise ValueError(f"rewards {list(rewards_S.shape)} and group ids {list(group_ids_S.shape)} are not both [S]")
    if rewards_S.numel() == 0:
        return rewards_S.float()
    ids, group_S, size_G = torch.unique(group_ids_S, return_inverse=True, return_counts=True)
    reward_S = rewards_S.double()  # float32 would lose small differences between large rewards

    def total(value_S: Tensor) -> Tensor:
        return value_S.new_zeros(len(ids)).index_add(0, group_S, value_S)

    def extreme(reduce: str) -> Tensor:
        return reward_S.new_zeros(len(ids)).scatter_reduce(0, group_S, reward_S, reduce, include_self=False)

    centred_S = reward_S - (total(reward_S) / size_G)[group_S]
    std_G = (total(centred_S.square()) / (size_G - 1).clamp(min=1)).sqrt()
    flat_G = extreme("amin") == extreme("amax")
    advantage_S = centred_S / (std_G + eps)[group_S]
    return torch.where(flat_G[group_S], 0.0, advantage_S).float()
