"""One step on a batch of groups: passes over packed micro-batches, the objective, the optimiser.

    batch ─plan─▶ minibatches of passes ─objective─▶ gradients ─▶ updates

Legend: A actions of a batch, M actions of a micro-batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..broker.errors import TrainingError
from ..broker.trajectory import Group
from .algorithm.age import interpolated_prox
from .algorithm.config import Gae
from .algorithm.objective import Objective, objective
from .batch import Batch
from .critic import Critic
from .estimate import Estimator
from .measure import measure_ages, measure_batch
from .minibatch import MicroBatch, MiniBatch
from .optimizer import Optimizer
from .plan import Planner, Recipe, Work
from .policy import Policy, Scorer
from .ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken: its measurements, and the groups it could not learn from, by their place, with the cause."""

    measured: dict[str, float]
    refused: dict[int, str] = field(default_factory=dict)


class Trainer:
    """Takes steps with a policy and its optimiser.

    `reference` gives log π_ref where the algorithm has a KL term; `critic` the values that gae needs. Of several `ranks`
    each takes the same steps on the same groups, and makes its part of the passes.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer,
        estimator: Estimator,
        recipe: Recipe,
        *,
        reference: Scorer | None = None,
        critic: Critic | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._policy = policy
        self._optimizer = optimizer
        self._planner = Planner(policy, estimator, recipe, reference=reference, critic=critic, ranks=ranks)
        self._estimator = estimator
        self._recipe = recipe
        self._critic = critic
        self._ranks = ranks
        self.resumes: list[tuple[int, int]] = []

    def resume(self, *, version: int, gap: int) -> None:
        """From now on a token older than `version` counts as `gap` versions younger.

        A learner that resumes publishes its old weights as `version`, `gap` above what the checkpoint called them, since
        versions never go back. The groups that come again were sampled in the lineage that was lost, by weights just as
        far from the step they are needed for as they were then: without this they would all be too old.
        """
        self.resumes.append((version, gap))

    def step(self, groups: Sequence[Group[Any]], *, step: int, version: int) -> Taken:
        """One step on `groups` with weights of `version`.

        An update whose loss or gradient is not finite is not made, and its groups are refused; TrainingError is raised
        where that leaves no group, and nothing has changed then. Trajectories that teach nothing (no advantage, no KL
        term) count in the mean and are left out of the passes; a minibatch of nothing else leaves the weights as they
        are.
        """
        recipe, scale = self._recipe, self._scale()
        batch = Batch.of(groups, recipe.denoising, step=step, seed=recipe.seed)
        work = self._planner.plan(batch, step, self._age(batch.versions_A, version))
        refused: dict[int, str] = {}
        for number, minibatch in enumerate(work.minibatches):
            work.progress = number / len(work.minibatches)
            try:
                self._update(minibatch, work)
            except TrainingError as error:
                refused |= dict.fromkeys(minibatch.groups, str(error))
        if len(refused) == len(groups):
            self._restore(scale)
            raise TrainingError(next(iter(refused.values())))
        self._estimator.keep()
        ages = measure_ages(work.actions.age_A, work.actions.keep_A, self._recipe.staleness.max)
        num_learned = sum(minibatch.groups[0] not in refused for minibatch in work.minibatches)
        measured = (
            measure_batch(batch, self._recipe.algorithm.shaping)
            | ages
            | work.tally.means(num_learned)
            | work.watch.seconds
        )
        return Taken(measured, refused)

    def _scale(self) -> dict[str, float]:
        """What a batch changes before any update: the critic's scale."""
        return {} if self._critic is None else self._critic.scale.state()

    def _restore(self, scale: dict[str, float]) -> None:
        if self._critic is not None:
            self._critic.scale.load(scale)

    def _age(self, versions_A: Tensor, version: int) -> Tensor:
        """int64[A], versions between the sampling of tokens and `version`."""
        age_A = version - versions_A
        for resumed_at, gap in self.resumes:
            age_A = age_A - gap * (versions_A < resumed_at)
        return age_A

    def _update(self, minibatch: MiniBatch, work: Work) -> None:
        """The passes over a minibatch and the update; raises TrainingError, nothing changed, if one is not finite."""
        if not minibatch.microbatches:
            return
        try:
            with work.watch.of("forward_backward_s"):
                sums = self._ranks.total([self._pass(micro, work) for micro in minibatch.microbatches])
            if not math.isfinite(sums["loss"]):
                raise TrainingError(f"the loss is {sums['loss']}; this update is not made")
            with work.watch.of("optimizer_s"):
                norm = self._optimizer.clip(work.step)
                if self._critic is not None:
                    self._critic.update(work.step)
                rate = self._optimizer.apply(work.step)
        except TrainingError:
            self._optimizer.discard()
            if self._critic is not None:
                self._critic.discard()
            raise
        work.tally.add(sums, grad_norm=norm, lr=rate)

    def _pass(self, micro: MicroBatch, work: Work) -> dict[str, float]:
        """Forward and backward; returns the sums of the objective."""
        recipe, packed = self._recipe, micro.packed
        scores = self._policy.scores(packed, recipe.temperature)
        logprobs_M = scores.logprobs_A
        known = work.actions.at(micro.index_M, packed.segment_ids, packed.num_segments).to(logprobs_M.device)
        if not micro.counts:
            known = replace(known, keep_A=torch.zeros_like(known.keep_A))
        if recipe.proximal == "interpolate":
            prox_M = interpolated_prox(
                logprobs_M, known.behaviour_logprobs_A, -known.age_A, version=0, progress=work.progress
            )
            known = replace(known, prox_logprobs_A=prox_M)
        found = objective(logprobs_M, known, recipe.algorithm, recipe.staleness, scores.closed)
        of_values = self._backward(found.loss, scores.values_A, micro, work)
        sums = {each.name: float(getattr(found, each.name).detach()) for each in fields(Objective)}
        sums["entropy"] = float(scores.entropies_A[known.keep_A].sum())
        sums["num_far"] = float(work.far_A[micro.index_M].sum()) if micro.counts and work.far_A is not None else 0.0
        sums["padding"] = micro.padding
        return sums | of_values

    def _backward(self, loss: Tensor, values_M: Tensor | None, micro: MicroBatch, work: Work) -> dict[str, float]:
        """The backward pass of the loss and of the critic's, and the sums of that; a critic of its own has its own pass."""
        if self._critic is None:
            loss.backward()
            return {}
        if values_M is not None:
            of_values, sums = self._value_loss(values_M, micro, work)
            (loss + self._value_coefficient * of_values).backward()
            return sums
        loss.backward()
        of_values, sums = self._value_loss(self._critic.values(micro.packed, self._recipe.temperature), micro, work)
        of_values.backward()
        return sums

    def _value_loss(self, values_M: Tensor, micro: MicroBatch, work: Work) -> tuple[Tensor, dict[str, float]]:
        assert self._critic is not None and work.old_values_A is not None and work.targets_A is not None
        index_M = micro.index_M
        counts_M = work.actions.keep_A[index_M] & micro.counts
        weight_M = torch.where(counts_M, work.actions.weight_A[index_M], 0.0)
        return self._critic.scale.loss(values_M, work.old_values_A[index_M], work.targets_A[index_M], weight_M)

    @property
    def _value_coefficient(self) -> float:
        advantage = self._recipe.algorithm.advantage
        return advantage.critic.coefficient if isinstance(advantage, Gae) else 0.0
