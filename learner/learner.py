"""The learner: takes the oldest groups, takes a step, publishes the weights, issues more prompts, and so on.

top up prompts ─▶ take B groups ─▶ step ─▶ publish (beside the next step) ─▶ checkpoint (beside it too) ─▶ …
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..broker.bulletin import DRAIN, Bulletin
from ..broker.client import Client
from ..broker.config import BrokerConfig
from ..broker.errors import TrainingError
from ..broker.fence import require_lead
from ..broker.keys import EVAL, TRAIN
from ..broker.lane import Delivery, Lane
from ..broker.rollcall import Activity
from ..broker.trajectory import Group
from ..broker.weights import open_store
from .algorithm.config import AlgorithmConfig, Gae
from .checkpoint import CheckpointStore, LearnerState, Snapshot, copied
from .config import CheckpointConfig, DatasetConfig, EvaluationConfig, LearnerConfig, ModelConfig, StalenessConfig
from .critic import Critic
from .dataset import Dataset
from .estimate import Estimator
from .evaluator import Evaluator
from .feeder import Feeder
from .ledger import Ledger
from .optimizer import Optimizer
from .policy import TokenPolicy
from .publisher import Publisher
from .reference import reference_of
from .screen import is_constant, unfit
from .source import GroupSource
from .trainer import Recipe, Trainer

logger = logging.getLogger(__name__)

FINAL_EVALUATION_S = 300.0
EVALUATION_TICK_S = 0.5
MAX_REFUSED = 3
"""Batches in a row that no update could be made of, before the learner gives up."""

MAX_TOLD = 5


@dataclass(frozen=True)
class LearnerSettings:
    """What a learner is made of. `group_size` and `temperature` are the rollout's, which it must share."""

    run: str
    directory: Path
    model: ModelConfig
    dataset: DatasetConfig
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    staleness: StalenessConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    broker: BrokerConfig
    group_size: int
    temperature: float
    seed: int


class Learner:
    """Leads a run from its newest checkpoint to its last step, or until the run is told to drain."""

    def __init__(self, settings: LearnerSettings, client: Client, activity: Activity | None = None) -> None:
        self._settings = settings
        self._activity = activity or Activity()
        self._client = client
        self._bulletin = Bulletin(client, settings.run)
        self._lane = Lane(client, settings.run, TRAIN)
        self._weights = open_store(client, settings.run, settings.broker, settings.directory / "weights")
        self._checkpoints = CheckpointStore(
            settings.directory / "checkpoints",
            keep=settings.checkpoint.keep,
            archive_every=settings.checkpoint.archive_every_steps,
        )
        self._epoch = self._bulletin.lead()  # first, so that no earlier learner writes a checkpoint after this look
        snapshot = self._checkpoints.load_latest()
        if snapshot is not None and snapshot.state.epoch >= self._epoch:  # a clock went back
            self._epoch = self._bulletin.lead(after=snapshot.state.epoch)
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.learner.threads)

        self._event("learner: loading the model")
        self._policy = TokenPolicy(settings.model.path, settings.model, _device())
        self._optimizer = Optimizer(
            self._policy.parameters(), settings.learner.optimizer, total_steps=settings.learner.steps
        )
        dataset = Dataset(settings.dataset)
        self._estimator = Estimator(settings.algorithm, dataset.identity)
        self._critic = self._make_critic()
        state = self._restore(snapshot)
        self._trainer = self._make_trainer(state)
        self._source = GroupSource(
            self._lane,
            Ledger(state.trained),
            epoch=self._epoch,
            unfit=self._unfit,
        )
        self._feeder = Feeder(
            self._lane,
            dataset,
            self._source,
            max_outstanding=(settings.staleness.max + 1) * settings.learner.groups_per_step,
            max_dead_letters=settings.broker.max_dead_letters,
            group_size=settings.group_size,
            epoch=self._epoch,
        )
        self._evaluator = Evaluator(
            Lane(client, settings.run, EVAL),
            dataset.eval_rows() if settings.evaluation.every_steps else [],
            samples=settings.evaluation.samples,
            epoch=self._epoch,
            report=self._bulletin.report,
        )
        self._publisher = Publisher(self._weights, self._policy.adapter_config(), epoch=self._epoch)
        self._step = state.step
        self._version = state.version
        self._filtered = state.filtered
        self._refused = 0
        self._num_unfit = 0

    def run(self) -> None:
        """Train until the last step or the order to drain; leaves a checkpoint and a final record behind."""
        self._begin()
        self._event(f"learner: at step {self._step} of {self._settings.learner.steps}, waiting for groups")
        if self._step < self._settings.learner.steps:
            self._evaluate()
        while self._step < self._settings.learner.steps and not self._draining():
            if not self._one_step():
                break
        self._finish()

    def _make_critic(self) -> Critic | None:
        settings, advantage = self._settings, self._settings.algorithm.advantage
        if not isinstance(advantage, Gae):
            return None
        return Critic(advantage.critic, settings.model, total_steps=settings.learner.steps, device=_device())

    def _make_trainer(self, state: LearnerState) -> Trainer:
        settings, reference = self._settings, None
        if settings.algorithm.kl.coefficient > 0:
            reference = reference_of(self._policy, settings.model.path, settings.model, _device())
        recipe = Recipe(settings.learner, settings.algorithm, settings.staleness, settings.temperature)
        made = Trainer(self._policy, self._optimizer, self._estimator, recipe, reference=reference, critic=self._critic)
        for version, gap in state.resumes:
            made.resume(version=version, gap=gap)
        return made

    def _begin(self) -> None:
        """Publish what training starts from, and begin to fetch."""
        self._publish_start()
        self._source.start()

    def _one_step(self) -> bool:
        """Take a batch and learn from it; False if told to drain while waiting for it."""
        began = time.perf_counter()
        filtered = self._filtered
        deliveries = self._gather()
        if not deliveries:
            return False
        gathered = time.perf_counter()
        try:
            taken = self._trainer.step([d.group for d in deliveries], step=self._step, version=self._version)
        except TrainingError as error:
            self._refused += 1
            self._refuse(deliveries, str(error))
            return True
        self._refused = 0
        self._refuse([deliveries[place] for place in taken.refused], *taken.refused.values())
        deliveries = [each for place, each in enumerate(deliveries) if place not in taken.refused]
        self._source.settle(deliveries)
        self._step += 1
        self._version += 1
        self._activity.mark(self._version)
        trained = time.perf_counter()
        weights = copied(self._policy.weights())
        publish_s = self._publisher.publish(self._version, weights)
        self._top_up()
        self._after_step(weights)
        timing = {"wait_s": gathered - began, "train_s": trained - gathered, "publish_s": publish_s}
        timing |= {"step_s": time.perf_counter() - began, "groups_replaced": self._filtered - filtered}
        self._report_step(deliveries, taken.measured | timing)
        return True

    def _gather(self) -> list[Delivery]:
        """The groups of a step; none if told to drain while waiting for them.

        Where groups that teach nothing are replaced, they count as learned from, and others are waited for.
        """
        settings, replaces = self._settings.learner, self._settings.algorithm.filters.constant == "replace"
        gathered: list[Delivery] = []
        while len(gathered) < settings.groups_per_step:
            missing = settings.groups_per_step - len(gathered)
            taken = self._source.take(missing, timeout_s=settings.take_timeout_s, idle=self._idle)
            if not taken:
                return []
            gathered += [each for each in taken if not (replaces and is_constant(each.group))]
            constant = [each for each in taken if replaces and is_constant(each.group)]
            if constant:
                self._source.settle(constant)
                self._filtered += len(constant)
                self._top_up()
        return gathered

    def _refuse(self, deliveries: list[Delivery], *causes: str) -> None:
        """Dead-letter groups that cannot be learned from; raises TrainingError when batch after batch is like that."""
        if not deliveries:
            return
        if self._refused >= MAX_REFUSED:
            raise TrainingError(f"{causes[0]}; {self._refused} batches in a row were like that")
        self._source.reject(deliveries, causes[0])
        self._feeder.look_again()  # a group that Redis had forgotten leaves no dead letter
        prompts = ", ".join(str(each.group.prompt_id) for each in deliveries[:8])
        self._event(
            f"learner: {len(deliveries)} groups are dead-lettered (prompts {prompts}): {causes[0]}", level="error"
        )

    def _unfit(self, group: Group[Any]) -> str | None:
        """Why a group that has come cannot be learned from; the first few such are told of, all are dead letters."""
        cause = unfit(group, self._policy.vocab_size)
        if cause is not None:
            self._num_unfit += 1
            if self._num_unfit <= MAX_TOLD:
                more = "; no more of these are shown, see `areal dead list`" if self._num_unfit == MAX_TOLD else ""
                self._event(f"learner: a group is dead-lettered: {cause}{more}", level="error")
        return cause

    def _after_step(self, weights: dict[str, Tensor]) -> None:
        last = self._step == self._settings.learner.steps
        if not last and self._step % self._settings.checkpoint.every_steps == 0:
            self._checkpoint(weights)
        elif not last and self._checkpoints.archives(self._step):
            self._checkpoints.archive(self._state(), weights, permit=self._require_lead)
        every = self._settings.evaluation.every_steps
        if not last and every and self._step % every == 0:
            self._evaluate()

    def _finish(self) -> None:
        self._checkpoint(copied(self._policy.weights()))
        self._publisher.wait()
        finished = self._step >= self._settings.learner.steps
        if finished and self._settings.evaluation.every_steps:
            self._evaluate_last()
        self._checkpoints.wait()
        self._source.close()
        self._evaluator.close()
        if finished:
            self._policy.save_pretrained(self._settings.directory / "model")
        self._bulletin.report(self._final_record(finished))

    def _evaluate_last(self) -> None:
        """Evaluate what the run has come to, after the round that may be under way, unless told to drain."""
        self._event("learner: the last evaluation")
        deadline = time.monotonic() + FINAL_EVALUATION_S
        began = False
        while not (self._evaluator.finish(EVALUATION_TICK_S) and began):
            began = began or self._evaluator.begin(step=self._step, version=self._version)
            self._publisher.ensure()
            if self._draining() or time.monotonic() > deadline:
                self._event("learner: the last evaluation did not end in time", level="warning")
                return

    def _restore(self, snapshot: Snapshot | None) -> LearnerState:
        """The state of a checkpoint, its tensors loaded; or that of the beginning."""
        if snapshot is None:
            return LearnerState(step=0, version=0, trained=[], epoch=self._epoch)
        self._policy.load_weights(snapshot.weights)
        self._optimizer.load_state(snapshot.optimizer)
        self._estimator.load(snapshot.state.estimator)
        if self._critic is not None:
            self._critic.load(snapshot.critic)
        torch.set_rng_state(snapshot.rng)
        self._event(f"learner: resumed from the checkpoint of step {snapshot.state.step}")
        return snapshot.state

    def _publish_start(self) -> None:
        """Publish what training starts from, under a version above every one that an earlier learner published."""
        latest = self._weights.latest()
        if latest is not None:
            version = max(self._version, latest.version) + 1
            self._trainer.resume(version=version, gap=version - self._version)
            self._version = version
        self._publisher.publish(self._version, copied(self._policy.weights()))
        self._publisher.wait()

    def _checkpoint(self, weights: dict[str, Tensor]) -> None:
        """Copy the rest of the state aside too and let it be written; what it covers is acknowledged once it is durable."""
        critic = {} if self._critic is None else copied(self._critic.state())
        snapshot = Snapshot(self._state(), weights, copied(self._optimizer.state()), critic, torch.get_rng_state())
        covered = self._source.settled()
        self._checkpoints.save(snapshot, permit=self._require_lead, done=lambda: self._source.acknowledge(covered))

    def _state(self) -> LearnerState:
        trained, resumes = self._source.ledger.ranges(), list(self._trainer.resumes)
        return LearnerState(
            self._step, self._version, trained, self._epoch, resumes, self._filtered, self._estimator.state()
        )

    def _require_lead(self) -> None:
        require_lead(self._client, self._settings.run, self._epoch)

    def _evaluate(self) -> None:
        if not self._evaluator.begin(step=self._step, version=self._version):
            logger.info("no evaluation at step %d: the one before is still under way", self._step)

    def _idle(self) -> bool:
        """Called while waiting for groups: replace what was lost on the way; True to stop waiting."""
        self._publisher.ensure()
        self._top_up()
        return self._draining()

    def _top_up(self) -> None:
        needed = (self._settings.learner.steps - self._step) * self._settings.learner.groups_per_step
        self._feeder.top_up(version=self._version, needed=needed)

    def _draining(self) -> bool:
        return self._bulletin.ordered() == DRAIN

    def _report_step(self, deliveries: Sequence[Delivery], measured: dict[str, float]) -> None:
        record: dict[str, Any] = {
            "kind": "step",
            "time": time.time(),
            "step": self._step,
            "steps": self._settings.learner.steps,
            "version": self._version,
            "epoch": self._epoch,
            "prompt_ids": [delivery.group.prompt_id for delivery in deliveries],
            "reward_parts": _mean_parts(deliveries),
            "groups_waiting": self._source.num_waiting,
        }
        self._bulletin.report(record | measured)

    def _final_record(self, finished: bool) -> dict[str, Any]:
        depth, ledger = self._lane.depth(), self._source.ledger
        return {
            "kind": "final",
            "time": time.time(),
            "finished": finished,
            "step": self._step,
            "version": self._version,
            "groups_trained": len(ledger) - self._filtered,
            "groups_filtered": self._filtered,
            "groups_lost": len(ledger.missing(depth.issued, self._lane.positions())),
            "dead_letters": depth.dead,
            "outstanding": self._source.outstanding(self._lane.listing()),
        }

    def _event(self, text: str, level: str = "info") -> None:
        logger.info("%s", text)
        self._bulletin.report({"kind": "event", "time": time.time(), "level": level, "text": text})


def _mean_parts(deliveries: Sequence[Delivery]) -> dict[str, float]:
    """The mean of each named part of the reward, over the trajectories that have it."""
    parts: dict[str, list[float]] = {}
    for delivery in deliveries:
        for trajectory in delivery.group.trajectories:
            for name, value in trajectory.reward_parts.items():
                parts.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in parts.items()}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
