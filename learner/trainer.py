"""One step on a batch of groups: advantages, packing, the objective, the optimiser.

Legend: S trajectories of a batch, A actions of a micro-batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..broker.errors import TrainingError
from ..broker.trajectory import Group, TokenTrajectory
from .advantage import group_normalised
from .config import LearnerConfig
from .objective import Objective, decoupled_ppo
from .optimizer import Optimizer
from .packing import PackedBatch, pack, split_by_tokens
from .policy import Policy

Versions = TypeVar("Versions", NDArray[np.int32], Tensor)


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory and its advantage."""

    trajectory: TokenTrajectory
    advantage: float


@dataclass(slots=True)
class MicroBatch:
    """What one forward and backward pass works on. `keep_A` is false for tokens that are too old to learn from.

    `prox_logprobs_A` is None where the proximal policy is the current one: at the only update of a batch.
    """

    packed: PackedBatch
    advantages_A: Tensor
    keep_A: Tensor
    prox_logprobs_A: Tensor | None = None


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """What one optimiser update works on; `num_kept` counts its actions, those of groups without variance too."""

    microbatches: list[MicroBatch]
    num_kept: int


class Trainer:
    """Takes steps with a policy and its optimiser."""

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer,
        config: LearnerConfig,
        *,
        max_staleness: int,
        temperature: float,
    ) -> None:
        self._policy = policy
        self._optimizer = optimizer
        self._config = config
        self._max_staleness = max_staleness
        self._temperature = temperature
        self.resumes: list[tuple[int, int]] = []

    def resume(self, *, version: int, gap: int) -> None:
        """From now on a token older than `version` counts as `gap` versions younger.

        A learner that resumes publishes its old weights as `version`, `gap` above what the checkpoint called them, since
        versions never go back. The groups that come again were sampled in the lineage that was lost, by weights just as
        far from the step they are needed for as they were then: without this they would all be too old.
        """
        self.resumes.append((version, gap))

    def step(self, groups: Sequence[Group[TokenTrajectory]], *, step: int, version: int) -> dict[str, float]:
        """One step on `groups` with weights of `version`; returns its measurements. Raises TrainingError.

        The loss is the mean over all actions of a minibatch. Groups without variance count in it with advantage 0, and
        are left out of the passes; a minibatch of nothing else leaves the weights as they are.
        """
        _refuse_images(groups)
        _refuse_unknown_tokens(groups, self._policy.vocab_size)
        versions = np.concatenate([t.versions[t.action_mask] for group in groups for t in group.trajectories])
        measured = _measure_batch(groups) | _measure_staleness(self._age(versions, version), self._max_staleness)
        totals: dict[str, float] = {}
        norms, rate = [0.0], 0.0
        minibatches = self._minibatches(groups, version)
        for minibatch in minibatches:
            if not any(micro.keep_A.any() for micro in minibatch.microbatches):
                continue
            for micro in minibatch.microbatches:
                for name, value in self._pass(micro, minibatch.num_kept, step).items():
                    totals[name] = totals.get(name, 0.0) + value
            norm, rate = self._optimizer.step(step)
            norms.append(norm)
        return measured | _means(totals, len(minibatches)) | {"grad_norm": max(norms), "lr": rate}

    def _age(self, versions: Versions, version: int) -> Versions:
        """Versions between the sampling of tokens and `version`."""
        age = version - versions
        for resumed_at, gap in self.resumes:
            age = age - gap * (versions < resumed_at)
        return age

    def _minibatches(self, groups: Sequence[Group[TokenTrajectory]], version: int) -> list[MiniBatch]:
        """The batch dealt into minibatches by group, with log π_prox where it differs from log π_θ."""
        count = self._config.minibatches
        minibatches = [self._minibatch(share, version) for share in (groups[i::count] for i in range(count)) if share]
        if len(minibatches) > 1:
            with torch.no_grad():
                for minibatch in minibatches:
                    for micro in minibatch.microbatches:
                        micro.prox_logprobs_A = self._policy.logprobs(micro.packed, self._temperature)[0]
        return minibatches

    def _minibatch(self, groups: Sequence[Group[TokenTrajectory]], version: int) -> MiniBatch:
        num_kept = sum(
            int(np.count_nonzero(self._age(t.versions[t.action_mask], version) <= self._max_staleness))
            for group in groups
            for t in group.trajectories
        )
        return MiniBatch(self._microbatches(_samples(groups), version), num_kept)

    def _microbatches(self, samples: Sequence[Sample], version: int) -> list[MicroBatch]:
        lengths = [len(sample.trajectory.tokens) for sample in samples]
        parts = split_by_tokens(lengths, self._config.tokens_per_microbatch)
        return [self._microbatch([samples[i] for i in part], version) for part in parts]

    def _microbatch(self, samples: Sequence[Sample], version: int) -> MicroBatch:
        packed = pack([sample.trajectory for sample in samples])
        advantages_S = torch.tensor([sample.advantage for sample in samples])
        keep_A = self._age(packed.versions, version) <= self._max_staleness
        return MicroBatch(packed, advantages_S[packed.segment_ids], keep_A)

    def _pass(self, micro: MicroBatch, num_kept: int, step: int) -> dict[str, float]:
        """Forward and backward; returns the sums of the objective."""
        logprobs_A, entropy_A = self._policy.logprobs(micro.packed, self._temperature)
        device = logprobs_A.device
        objective = decoupled_ppo(
            logprobs_A,
            logprobs_A.detach() if micro.prox_logprobs_A is None else micro.prox_logprobs_A,
            behaviour_logprobs_A=micro.packed.behaviour_logprobs.to(device),
            advantages_A=micro.advantages_A.to(device),
            keep_A=micro.keep_A.to(device),
            config=self._config.objective,
            denominator=num_kept,
        )
        if not math.isfinite(float(objective.loss.detach())):
            self._optimizer.discard()
            raise TrainingError(f"the loss is {float(objective.loss.detach())} at step {step}; this update is not made")
        objective.loss.backward()
        sums = {field.name: float(getattr(objective, field.name).detach()) for field in fields(Objective)}
        return sums | {"entropy": float(entropy_A[micro.keep_A.to(device)].sum())}


def _samples(groups: Sequence[Group[TokenTrajectory]]) -> list[Sample]:
    """The trajectories of groups whose rewards differ, each with its advantage."""
    sizes = torch.tensor([len(group.trajectories) for group in groups])
    ids_S = torch.arange(len(groups)).repeat_interleave(sizes)
    rewards_S = torch.from_numpy(np.concatenate([group.rewards for group in groups]))
    advantages = group_normalised(rewards_S, ids_S).tolist()
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    varied = [group.rewards.min() != group.rewards.max() for group in groups for _ in group.trajectories]
    return [
        Sample(trajectory, advantage)
        for trajectory, advantage, keep in zip(trajectories, advantages, varied, strict=True)
        if keep
    ]


def _refuse_images(groups: Sequence[Group[Any]]) -> None:
    """Raises TrainingError if a group is not one of tokens."""
    for group in groups:
        if not isinstance(group.trajectories[0], TokenTrajectory):
            raise TrainingError(
                f"prompt {group.prompt_id} was answered with images, and this policy learns from tokens"
            )


def _refuse_unknown_tokens(groups: Sequence[Group[TokenTrajectory]], vocab_size: int) -> None:
    """Raises TrainingError if a token is outside the policy's vocabulary."""
    for group in groups:
        largest = max(int(trajectory.tokens.max()) for trajectory in group.trajectories)
        if largest >= vocab_size:
            raise TrainingError(
                f"prompt {group.prompt_id} has token {largest}, the vocabulary only {vocab_size} of them"
            )


def _measure_batch(groups: Sequence[Group[TokenTrajectory]]) -> dict[str, float]:
    """What can be said of a batch before training on it."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    return {
        "reward_mean": float(np.mean([t.reward for t in trajectories])),
        "length_mean": float(np.mean([t.num_actions for t in trajectories])),
        "truncated_fraction": float(np.mean([t.finish_reason == "length" for t in trajectories])),
        "groups": len(groups),
        "groups_without_variance": int(sum(group.rewards.min() == group.rewards.max() for group in groups)),
        "started_at": min(group.started_at for group in groups),
    }


def _measure_staleness(age: NDArray[np.int32], max_staleness: int) -> dict[str, float]:
    """Ages of the tokens taken, in versions: mean of those trained on, maximum of all, and how many were too old."""
    young = age[age <= max_staleness]
    return {
        "staleness_mean": float(young.mean()) if len(young) else 0.0,
        "staleness_max": int(age.max()),
        "tokens_too_old": len(age) - len(young),
        "tokens_trained": len(young),
    }


def _means(totals: dict[str, float], num_minibatches: int) -> dict[str, float]:
    """The sums of a step as means over its kept actions; the ESS as a share of them."""
    kept = totals.get("num_kept", 0.0)
    names = ("loss", "entropy", "clipped_fraction", "capped_fraction", "behaviour_weight_mean", "behaviour_ess")
    if kept == 0:
        return dict.fromkeys((*names, "kl_behaviour_prox", "kl_prox_current"), 0.0)
    return {
        "loss": totals["loss"] / num_minibatches,
        "entropy": totals["entropy"] / kept,
        "clipped_fraction": totals["num_clipped"] / kept,
        "capped_fraction": totals["num_capped"] / kept,
        "behaviour_weight_mean": totals["behaviour_weight"] / kept,
        "behaviour_ess": totals["behaviour_weight"] ** 2 / (totals["behaviour_weight_squared"] * kept),
        "kl_behaviour_prox": totals["kl_behaviour_prox"] / kept,
        "kl_prox_current": totals["kl_prox_theta"] / kept,
    }
