"""One step on a batch of groups: advantages, passes over packed micro-batches, the objective, the optimiser.

    batch ─age, filters─▶ what counts ─reward, reference─▶ advantages ─▶ minibatches ─(π_prox)─▶ passes ─▶ updates

Legend: S trajectories of a batch, A actions of it, M actions of a micro-batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from ..broker.errors import TrainingError
from ..broker.trajectory import Group, TokenTrajectory
from .algorithm.age import interpolated_prox, old_mask
from .algorithm.aggregate import action_weights
from .algorithm.behaviour import second_moment_mask
from .algorithm.config import AlgorithmConfig, Gae, M2po
from .algorithm.flat import segment_sum
from .algorithm.objective import Actions, Objective, objective
from .algorithm.ratio import log_ratio
from .batch import Batch
from .config import LearnerConfig, StalenessConfig
from .critic import Critic
from .estimate import Estimator
from .measure import Tally, measure_ages, measure_batch
from .minibatch import MicroBatch, MiniBatch, deal, groups_of, microbatches
from .optimizer import Optimizer
from .packing import PackedBatch
from .policy import Policy, Scorer
from .ranks import ALONE, Ranks
from .stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Recipe:
    """How steps are taken. `temperature` is the one that was sampled at."""

    learner: LearnerConfig
    algorithm: AlgorithmConfig
    staleness: StalenessConfig
    temperature: float

    @property
    def proximal(self) -> str:
        """Where π_prox comes from: recompute, interpolate or current."""
        if self.algorithm.proximal != "auto":
            return self.algorithm.proximal
        needs_pass = self.learner.minibatches > 1 or isinstance(self.algorithm.objective, M2po)
        return "recompute" if needs_pass else "current"


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken: its measurements, and the groups it could not learn from, by their place, with the cause."""

    measured: dict[str, float]
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Work:
    """A step under way. `old_values_A` and `targets_A` float[A] are the critic's, where there is one.

    far_A: bool[A], the actions left out for being too far from π_prox.
    """

    step: int
    actions: Actions
    old_values_A: Tensor | None = None
    targets_A: Tensor | None = None
    far_A: Tensor | None = None
    progress: float = 0.0
    tally: Tally = field(default_factory=Tally)
    watch: Stopwatch = field(default_factory=Stopwatch)


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
        self._estimator = estimator
        self._recipe = recipe
        self._reference = reference
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

    def step(self, groups: Sequence[Group[TokenTrajectory]], *, step: int, version: int) -> Taken:
        """One step on `groups` with weights of `version`.

        An update whose loss or gradient is not finite is not made, and its groups are refused; TrainingError is raised
        where that leaves no group, and nothing has changed then. Trajectories that teach nothing (no advantage, no KL
        term) count in the mean and are left out of the passes; a minibatch of nothing else leaves the weights as they
        are.
        """
        batch, scale = Batch.of(groups), self._scale()
        work = self._begin(batch, step, version)
        needed_S = self._needed(work.actions)
        minibatches = deal(batch, needed_S, count=self._count, budget=self._budget, ranks=self._ranks)
        passes = [micro for minibatch in minibatches for micro in minibatch.microbatches]
        self._find_proximal(work, passes, needed_S[batch.segment_ids_A])
        refused: dict[int, str] = {}
        for number, minibatch in enumerate(minibatches):
            work.progress = number / len(minibatches)
            try:
                self._update(minibatch, work)
            except TrainingError as error:
                refused |= dict.fromkeys(minibatch.groups, str(error))
        if len(refused) == len(groups):
            self._restore(scale)
            raise TrainingError(next(iter(refused.values())))
        self._estimator.keep()
        ages = measure_ages(work.actions.age_A, work.actions.keep_A, self._recipe.staleness.max)
        num_learned = sum(minibatch.groups[0] not in refused for minibatch in minibatches)
        measured = (
            measure_batch(batch, self._recipe.algorithm.shaping)
            | ages
            | work.tally.means(num_learned)
            | work.watch.seconds
        )
        return Taken(measured, refused)

    @property
    def _count(self) -> int:
        return self._recipe.learner.minibatches

    @property
    def _budget(self) -> int:
        return self._recipe.learner.tokens_per_microbatch

    def _scale(self) -> dict[str, float]:
        """What a batch changes before any update: the critic's scale."""
        return {} if self._critic is None else self._critic.scale.state()

    def _restore(self, scale: dict[str, float]) -> None:
        if self._critic is not None:
            self._critic.scale.load(scale)

    def _begin(self, batch: Batch, step: int, version: int) -> Work:
        """What is known of the batch before any update: ages, what counts and how much, advantages."""
        segments = (batch.segment_ids_A, len(batch.trajectories))
        age_A = self._age(batch.versions_A, version)
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
                segment_ids_A=segments[0],
                num_segments=segments[1],
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
        return microbatches(batch, range(len(batch.trajectories)), self._budget, self._ranks)

    def _age(self, versions_A: Tensor, version: int) -> Tensor:
        """int64[A], versions between the sampling of tokens and `version`."""
        age_A = version - versions_A
        for resumed_at, gap in self.resumes:
            age_A = age_A - gap * (versions_A < resumed_at)
        return age_A

    def _weights(self, batch: Batch, keep_A: Tensor) -> Tensor:
        """float64[A], the weight of each action in the mean of its minibatch."""
        algorithm = self._recipe.algorithm
        num_kept_S = segment_sum(keep_A.long(), batch.segment_ids_A, len(batch.trajectories))
        weight_S = torch.zeros(len(num_kept_S), dtype=torch.float64)
        for number in range(min(self._count, len(batch.groups))):
            groups = groups_of(number, self._count, len(batch.groups))
            own_S = torch.isin(batch.group_ids_S, torch.tensor(groups))
            weight_S[own_S] = action_weights(
                num_kept_S[own_S], batch.group_ids_S[own_S], by=algorithm.aggregate, max_length=algorithm.fixed_length
            )
        return weight_S[batch.segment_ids_A]

    def _needed(self, actions: Actions) -> Tensor:
        """bool[S], whether there is anything to learn from a trajectory."""
        teaches_A = actions.keep_A
        pulled = self._reference is not None and self._recipe.algorithm.kl.where == "loss"
        if not pulled and self._critic is None:
            teaches_A = teaches_A & (actions.advantages_A != 0)
        return segment_sum(teaches_A.long(), actions.segment_ids_A, actions.num_segments) > 0

    def _find_proximal(self, work: Work, passes: Sequence[MicroBatch], learned_A: Tensor) -> None:
        """Note log π_prox, where that takes passes of its own, and leave out what lies too far from it.

        learned_A: bool[A], the actions of trajectories that some rank has a pass for.
        """
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
    def _gathered(
        self, of: Callable[[PackedBatch], Tensor], passes: Sequence[MicroBatch], otherwise_A: Tensor
    ) -> Tensor:
        """float32[A], what the ranks' passes make of each action; `otherwise_A` where none comes by."""
        found_2A = torch.zeros(2, len(otherwise_A))
        for micro in passes:
            values_M = of(micro.packed).float().cpu()
            if micro.counts:
                found_2A[0, micro.index_M], found_2A[1, micro.index_M] = values_M, 1.0
        values_A, seen_A = self._ranks.summed(found_2A)
        return torch.where(seen_A > 0, values_A, otherwise_A)

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
        found = objective(logprobs_M, known, recipe.algorithm, recipe.staleness)
        of_values = self._backward(found.loss, scores.values_A, micro, work)
        sums = {each.name: float(getattr(found, each.name).detach()) for each in fields(Objective)}
        sums["entropy"] = float(scores.entropies_A[known.keep_A].sum())
        sums["num_far"] = float(work.far_A[micro.index_M].sum()) if micro.counts and work.far_A is not None else 0.0
        sums["padding"] = len(packed.tokens) - micro.num_tokens
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
