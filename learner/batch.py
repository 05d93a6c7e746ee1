"""A batch of groups laid flat: every action of every trajectory in one row.

Legend: S trajectories of a batch in the order of their groups, A actions of it in the order of the trajectories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..broker.trajectory import Group, TokenTrajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """The groups of a step, and what is known of their actions before any pass.

    group_ids_S          int64[S], which group a trajectory belongs to, by its place
    rewards_S            float32[S]
    bounds               int64[S+1], where the actions of each trajectory start, and A
    segment_ids_A        int64[A], which trajectory an action belongs to
    positions_A          int64[A], of the action's token in its trajectory
    versions_A           int64[A], of the weights that sampled the action
    behaviour_logprobs_A float32[A]
    """

    groups: Sequence[Group[TokenTrajectory]]
    trajectories: list[TokenTrajectory]
    group_ids_S: Tensor
    rewards_S: Tensor
    bounds: Tensor
    segment_ids_A: Tensor
    positions_A: Tensor
    versions_A: Tensor
    behaviour_logprobs_A: Tensor

    @classmethod
    def of(cls, groups: Sequence[Group[TokenTrajectory]]) -> "Batch":
        """The batch of these groups."""
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        sizes = torch.tensor([len(group.trajectories) for group in groups])
        masks = [trajectory.action_mask for trajectory in trajectories]
        lengths_S = torch.tensor([int(np.count_nonzero(mask)) for mask in masks])
        pairs = list(zip(trajectories, masks, strict=True))
        return cls(
            groups=groups,
            trajectories=trajectories,
            group_ids_S=torch.arange(len(groups)).repeat_interleave(sizes),
            rewards_S=torch.from_numpy(np.concatenate([group.rewards for group in groups])),
            bounds=torch.cat([torch.zeros(1, dtype=torch.int64), lengths_S.cumsum(0)]),
            segment_ids_A=torch.arange(len(trajectories)).repeat_interleave(lengths_S),
            positions_A=torch.from_numpy(np.concatenate([np.flatnonzero(mask) for mask in masks])),
            versions_A=torch.from_numpy(np.concatenate([t.versions[mask] for t, mask in pairs]).astype(np.int64)),
            behaviour_logprobs_A=torch.from_numpy(np.concatenate([t.behaviour_logprobs[mask] for t, mask in pairs])),
        )

    @property
    def num_actions(self) -> int:
        return len(self.segment_ids_A)

    @property
    def lengths_S(self) -> Tensor:
        """int64[S], the actions of each trajectory."""
        return self.bounds.diff()

    @property
    def truncated_S(self) -> Tensor:
        """bool[S], whether the answer was cut off."""
        return torch.tensor([trajectory.finish_reason == "length" for trajectory in self.trajectories])

    def index_of(self, members: Sequence[int]) -> Tensor:
        """int64, the actions of these trajectories, trajectory by trajectory."""
        bounds = self.bounds.tolist()
        return torch.cat([torch.arange(bounds[member], bounds[member + 1]) for member in members])
