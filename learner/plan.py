"""What is known of a step before any update: what counts, how much, towards what, and in which passes.

    batch ─age, filters─▶ what counts ─reward, reference, critic─▶ advantages ─▶ minibatches ─▶ π_prox

Legend: S trajectories of a batch, A actions of it, M actions of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..broker.errors import TrainingError
from ..denoising.config import DenoisingConfig
from .algorithm.age import old_mask
from .algorithm.aggregate import action_weights
from .algorithm.behaviour import second_moment_mask
from .algorithm.config import AlgorithmConfig, M2po, Rebel
from .algorithm.flat import segment_sum
from .algorithm.objective import Actions
from .algorithm.ratio import log_ratio
from .batch import Batch
from .config import LearnerConfig, StalenessConfig
from .critic import Critic
from .estimate import Estimator
from .measure import Tally
from .minibatch import MicroBatch, MiniBatch, deal, groups_of, microbatches
from .policy import Policy, Scorer
from .ranks import Ranks
from .stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Recipe:
    """How steps are taken. `temperature` is the one that was sampled at; `denoising` is of an image policy.

    `seed` draws what is trained of each image.
    """

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    staleness: StalenessConfig
    temperature: float
    denoising: DenoisingConfig | None = None
    seed: int = 0

    @property
    def pass_budget(self) -> int:
        """How much one pass works on: tokens, or denoising steps."""
        return self.learner.tokens_per_microbatch if self.denoising is None else self.learner.steps_per_microbatch

    @property
    def in_pairs(self) -> bool:
        """Whether trajectories of a group are compared two by two, within a pass."""
        return isinstance(self.algorithm.objective, Rebel)

    @property
    def proximal(self) -> str:
        """Where π_prox comes from: recompute, interpolate, current or behaviour."""
        if self.algorithm.proximal != "auto":
            return self.algorithm.proximal
        needs_pass = self.learner.minibatches > 1 or isinstance(self.algorithm.objective, M2po)
        return "recompute" if needs_pass else "current"


@dataclass(slots=True)
class Work:
    """A step under way. `old_values_A` and `targets_A` float[A] are the critic's, where there is one.

    minibatches: one for each update.
    far_A:       bool[A], the actions left out for being too far from π_prox.
    """

    step: int
    actions: Actions
    minibatches: list[MiniBatch] = field(default_factory=list)
    old_values_A: Tensor | None = None
    targets_A: Tensor | None = None
    far_A: Tensor | None = None
    progress: float = 0.0
    tally: Tally = field(default_factory=Tally)
    watch: Stopwatch = field(default_factory=Stopwatch)


class Planner:
    """Plans steps, the same on every rank, whose passes without gradient it shares out. See Trainer."""

    def __init__(
        self,
        policy: Policy,
        estimator: Estimator,
        recipe: Recipe,
        *,
        reference: Scorer | None,
        critic: Critic | None,
        ranks: Ranks,
    ) -> None:
        self._policy = policy
        self._estimator = estimator
        self._recipe = recipe
        self._reference = reference
        self._critic = critic
        self._ranks = ranks

    def plan(self, batch: Batch, step: int, age_A: Tensor) -> Work:
        """The work of a step on a batch whose actions are so old, int64[A], in versions. Raises TrainingError."""
        work = self._begin(batch, step, age_A)
        needed_S, learner = self._needed(batch, work.actions), self._recipe.learner
        work.minibatches = deal(
            batch,
            needed_S,
            count=learner.minibatches,
            budget=self._recipe.pass_budget,
            ranks=self._ranks,
            pairs=self._recipe.in_pairs,
        )
        self._find_proximal(work, needed_S[batch.segment_ids_A])
        return work

    def _begin(self, batch: Batch, step: int, age_A: Tensor) -> Work:
        keep_A = self._kept(batch, age_A)
        work = Work(
            step,
            Actions(
                prox_logprobs_A=None,
                behaviour_logprobs_A=batch.behaviour_logprobs_A,
                reference_logprobs_A=None,
                advantages_A=torch.zeros(batch.num_actions),
                keep_A=keep_A,
                weight_A=self._weights(batch, keep_A),
                age_A=age_A,
                segment_ids_A=batch.segment_ids_A,
                num_segments=len(batch.trajectories),
            ),
        )
        reference_A = self._reference_logprobs(batch, work.watch)
        advantages_A = self._advantages(batch, work, reference_A)
        work.actions = replace(work.actions, advantages_A=advantages_A, reference_logprobs_A=reference_A)
        return work

    def _kept(self, batch: Batch, age_A: Tensor) -> Tensor:
        """bool[A], the actions that count."""
        staleness, segments_A = self._recipe.staleness, batch.segment_ids_A
        keep_A = old_mask(age_A, segments_A, len(batch.trajectories), bound=staleness.max, rule=staleness.rule)
        if self._recipe.algorithm.filters.truncated == "mask":
            keep_A = keep_A & ~batch.truncated_S[segments_A]
        return keep_A

    def _reference_logprobs(self, batch: Batch, watch: Stopwatch) -> Tensor | None:
        if self._reference is None:
            return None
        with watch.of("reference_s"):
            return self._scored(self._reference, self._every(batch), torch.zeros(batch.num_actions))

    def _advantages(self, batch: Batch, work: Work, reference_A: Tensor | None) -> Tensor:
        """float32[A]; the critic's part of the work is noted."""
        if self._critic is None:
            return self._estimator.advantages(batch, work.actions.keep_A, reference_A)
        keep_A = work.actions.keep_A
        with work.watch.of("values_s"):
            critic, temperature, zeros_A = self._critic, self._recipe.temperature, torch.zeros(batch.num_actions)
            values_A = self._gathered(lambda packed: critic.values(packed, temperature), self._every(batch), zeros_A)
        if not values_A.isfinite().all():
            raise TrainingError("the critic's values are not finite; this step is not made")
        in_rewards_A = critic.scale.in_rewards(values_A)
        advantages_A, returns_A = self._estimator.with_critic(batch, keep_A, reference_A, in_rewards_A)
        work.old_values_A, work.targets_A = values_A, critic.scale.targets(returns_A, keep_A)
        return advantages_A

    def _every(self, batch: Batch) -> list[MicroBatch]:
        return microbatches(batch, range(len(batch.trajectories)), self._recipe.pass_budget, self._ranks)

    def _weights(self, batch: Batch, keep_A: Tensor) -> Tensor:
        """float64[A], the weight of each action in the mean of its minibatch."""
        algorithm, count = self._recipe.algorithm, self._recipe.learner.minibatches
        num_kept_S = segment_sum(keep_A.long(), batch.segment_ids_A, len(batch.trajectories))
        weight_S = torch.zeros(len(num_kept_S), dtype=torch.float64)
        for number in range(min(count, len(batch.groups))):
            groups = groups_of(number, count, len(batch.groups))
            own_S = torch.isin(batch.group_ids_S, torch.tensor(groups))
            weight_S[own_S] = action_weights(
                num_kept_S[own_S], batch.group_ids_S[own_S], by=algorithm.aggregate, max_length=algorithm.fixed_length
            )
        return weight_S[batch.segment_ids_A]

    def _needed(self, batch: Batch, actions: Actions) -> Tensor:
        """bool[S], whether there is anything to learn from a trajectory."""
        teaches_A = actions.keep_A
        kl = self._recipe.algorithm.kl
        pulled = kl.coefficient > 0 and kl.where == "loss"
        if not pulled and self._critic is None:
            teaches_A = teaches_A & (actions.advantages_A != 0)
        teaches_S = segment_sum(teaches_A.long(), actions.segment_ids_A, actions.num_segments) > 0
        if self._recipe.in_pairs:  # one whose own advantage is 0 teaches beside another
            group_ids_S = batch.group_ids_S
            teaches_S = (segment_sum(teaches_S.long(), group_ids_S, len(batch.groups)) > 0)[group_ids_S]
        return teaches_S

    def _find_proximal(self, work: Work, learned_A: Tensor) -> None:
        """Note log π_prox, where that takes passes of its own, and leave out what lies too far from it.

        learned_A: bool[A], the actions of trajectories that some rank has a pass for.
        """
        if self._recipe.proximal == "behaviour":
            work.actions = replace(work.actions, prox_logprobs_A=work.actions.behaviour_logprobs_A)
        passes = [micro for minibatch in work.minibatches for micro in minibatch.microbatches]
        if self._recipe.proximal != "recompute" or not passes:
            return
        actions, surrogate = work.actions, self._recipe.algorithm.objective
        with work.watch.of("prox_s"):
            prox_A = self._scored(self._policy, passes, actions.behaviour_logprobs_A)
        keep_A = actions.keep_A
        if isinstance(surrogate, M2po):
            log_w_A = log_ratio(prox_A, actions.behaviour_logprobs_A, keep_A)
            near_A = second_moment_mask(log_w_A, keep_A & learned_A, surrogate.threshold)
            keep_A = torch.where(learned_A, near_A, keep_A)
        work.far_A = actions.keep_A & ~keep_A
        work.actions = replace(actions, prox_logprobs_A=prox_A, keep_A=keep_A)

    def _scored(self, scorer: Scorer, passes: Sequence[MicroBatch], otherwise_A: Tensor) -> Tensor:
        """float32[A], log-probabilities without gradient; `otherwise_A` where no pass comes by."""
        temperature = self._recipe.temperature
        return self._gathered(lambda packed: scorer.logprobs(packed, temperature), passes, otherwise_A)

    @torch.no_grad()
    def _gathered(self, of: Callable[[Any], Tensor], passes: Sequence[MicroBatch], otherwise_A: Tensor) -> Tensor:
        """float32[A], what the ranks' passes make of each action; `otherwise_A` where none comes by."""
        found_2A = torch.zeros(2, len(otherwise_A))
        for micro in passes:
            values_M = of(micro.packed).float().cpu()
            if micro.counts:
                found_2A[0, micro.index_M], found_2A[1, micro.index_M] = values_M, 1.0
        values_A, seen_A = self._ranks.summed(found_2A)
        return torch.where(seen_A > 0, values_A, otherwise_A)
