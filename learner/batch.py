"""A batch of groups laid flat: every action of every trajectory in one row.

Legend: S trajectories of a batch in the order of their groups, A actions of it in the order of the trajectories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..broker.trajectory import Group, TokenTrajectory, Trajectory
from ..denoising.config import DenoisingConfig


@dataclass(frozen=True, slots=True)
class Batch:
    """The groups of a step, and what is known of their actions before any pass.

    group_ids_S          int64[S], which group a trajectory belongs to, by its place
    rewards_S            float32[S]
    bounds               int64[S+1], where the actions of each trajectory start, and A
    segment_ids_A        int64[A], which trajectory an action belongs to
    positions_A          int64[A], of the action's token in its trajectory, or of the step that it is
    versions_A           int64[A], of the weights that sampled the action
    behaviour_logprobs_A float32[A]
    """

    groups: Sequence[Group[Any]]
    trajectories: Sequence[Trajectory]
    group_ids_S: Tensor
    rewards_S: Tensor
    bounds: Tensor
    segment_ids_A: Tensor
    positions_A: Tensor
    versions_A: Tensor
    behaviour_logprobs_A: Tensor

    @classmethod
    def of(
        cls, groups: Sequence[Group[Any]], denoising: DenoisingConfig | None = None, *, step: int = 0, seed: int = 0
    ) -> "Batch":
        """The batch of these groups; where only some actions of an image are trained, those that step and seed draw."""
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        sizes = torch.tensor([len(group.trajectories) for group in groups])
        draw = np.random.default_rng((seed % 2**64, step))
        chosen = [_actions_of(trajectory, denoising, draw) for trajectory in trajectories]
        lengths_S = torch.tensor([len(positions) for positions, _, _ in chosen])
        positions_A, versions_A, logprobs_A = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return cls(
            groups=groups,
            trajectories=trajectories,
            group_ids_S=torch.arange(len(groups)).repeat_interleave(sizes),
            rewards_S=torch.from_numpy(np.concatenate([group.rewards for group in groups])),
            bounds=torch.cat([torch.zeros(1, dtype=torch.int64), lengths_S.cumsum(0)]),
            segment_ids_A=torch.arange(len(trajectories)).repeat_interleave(lengths_S),
            positions_A=torch.from_numpy(positions_A),
            versions_A=torch.from_numpy(versions_A.astype(np.int64)),
            behaviour_logprobs_A=torch.from_numpy(logprobs_A),
        )

    @property
    def num_actions(self) -> int:
        return len(self.segment_ids_A)

    @property
    def lengths_S(self) -> Tensor:
        """int64[S], the actions of each trajectory."""
        return self.bounds.diff()

    @property
    def sizes_S(self) -> list[int]:
        """What a pass over each trajectory costs: its tokens, or the steps that are trained."""
        lengths = self.lengths_S.tolist()
        return [
            len(each.tokens) if isinstance(each, TokenTrajectory) else length
            for each, length in zip(self.trajectories, lengths, strict=True)
        ]

    def positions_of(self, place: int) -> list[int]:
        """The positions of the actions of the trajectory there."""
        found: list[int] = self.positions_A[self.bounds[place] : self.bounds[place + 1]].tolist()
        return found

    @property
    def truncated_S(self) -> Tensor:
        """bool[S], whether the answer was cut off."""
        return torch.tensor([trajectory.truncated for trajectory in self.trajectories])

    def index_of(self, members: Sequence[int]) -> Tensor:
        """int64, the actions of these trajectories, trajectory by trajectory."""
        bounds = self.bounds.tolist()
        return torch.cat([torch.arange(bounds[member], bounds[member + 1]) for member in members])


def _actions_of(
    trajectory: Trajectory, denoising: DenoisingConfig | None, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Positions, versions and behaviour log-probabilities of the actions that are trained."""
    if isinstance(trajectory, TokenTrajectory):
        positions = np.flatnonzero(trajectory.action_mask)
        return positions, trajectory.versions[positions], trajectory.behaviour_logprobs[positions]
    wanted = None if denoising is None else denoising.trained_actions
    positions = _drawn(trajectory.num_actions, wanted, draw)
    logprobs = trajectory.behaviour_logprobs[positions]
    if denoising is not None and denoising.density == "mean":
        logprobs = logprobs / np.float32(trajectory.latents[0].size)
    return positions, np.full(len(positions), trajectory.version, np.int32), logprobs


def _drawn(count: int, wanted: int | None, draw: np.random.Generator) -> NDArray[np.int64]:
    """So many of the first `count` numbers, in order."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.sort(draw.choice(count, wanted, replace=False))
