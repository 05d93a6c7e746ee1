"""Aggregation: how the losses of single actions become the loss of a minibatch.

Legend: S trajectories of a minibatch; trajectories of one group share a group id.
"""

from typing import Literal

import torch
from torch import Tensor

from .flat import segment_sum

Aggregation = Literal["token", "sequence", "group", "fixed"]


def action_weights(
    num_kept_S: Tensor, group_ids_S: Tensor, *, by: Aggregation, max_length: int | None = None
) -> Tensor:
    """float64[S], the weight of each kept action of a trajectory: the loss is Σ weight·loss over the kept actions.

    by          the loss                                                  the weight
    token       mean over all actions                                     1 / Σ n
    sequence    mean over trajectories of each one's mean                 1 / (S₊·n_s)
    group       mean over groups of the mean over a group's actions       1 / (G₊·Σ n of its group)
    fixed       sum over actions, by a constant                           1 / (S·max_length)

    n_s counts the kept actions of trajectory s. One without any has weight 0, and neither it nor a group of such counts
    in S₊ or G₊; but S counts every trajectory, for that divisor is to depend on no trajectory's length, not even 0.

    The weights are those of the whole minibatch: its micro-batches add up to it, however it is cut.

    Source: sequence is GRPO, arXiv 2402.03300; group DAPO, arXiv 2503.14476, as printed, and token as most code has it;
    fixed is Dr. GRPO, arXiv 2503.20783.

    num_kept_S:  int64[S], the kept actions of each trajectory.
    group_ids_S: int64[S], any numbers in any order; for "group".
    by:          as in the table.
    max_length:  the actions a trajectory can have at most, > 0; for "fixed".
    """
    num_S = num_kept_S.double()
    if by == "token":
        divisor_S = num_S.sum().expand_as(num_S)
    elif by == "sequence":
        divisor_S = (num_S > 0).sum() * num_S
    elif by == "group":
        ids, group_S = torch.unique(group_ids_S, return_inverse=True)
        num_G = segment_sum(num_S, group_S, len(ids))
        divisor_S = ((num_G > 0).sum() * num_G)[group_S]
    elif max_length is None or max_length <= 0:
        raise ValueError(f"max_length is {max_length}, not the positive number of actions a trajectory may have")
    else:
        divisor_S = torch.full_like(num_S, len(num_S) * max_length)
    return torch.where(num_S > 0, 1.0 / divisor_S, 0.0)
