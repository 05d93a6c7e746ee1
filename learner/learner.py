"""The learner: takes the oldest groups, takes a step, publishes the weights, issues more prompts, and so on.

top up prompts ─▶ take B groups ─▶ step ─▶ publish (beside the next step) ─▶ checkpoint (beside it too) ─▶ …
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..broker.bulletin import DRAIN, Bulletin
from ..broker.client import Client
from ..broker.errors import TrainingError
from ..broker.fence import require_lead
from ..broker.keys import EVAL, TRAIN
from ..broker.lane import Delivery, Lane
from ..broker.meeting import Meeting
from ..broker.rollcall import Activity
from ..broker.trajectory import LOOKED_AT, Group
from ..broker.weights import open_store
from .checkpoint import LearnerState
from .dataset import Dataset
from .evaluator import Evaluator
from .feeder import Feeder
from .intake import gather
from .keeper import Keeper
from .ledger import Ledger
from .muster import lead, leave
from .publisher import Publisher
from .pupil import Pupil
from .ranks import ALONE, LOOPBACK, Ranks
from .recording import Lesson
from .reporter import Reporter
from .sender import Sender
from .settings import LearnerSettings
from .solved import SolveRates
from .source import GroupSource
from .trainer import Taken

logger = logging.getLogger(__name__)

LOOKED_THROUGH = 100
"""Rows to train on that are looked at before the first is issued."""

FINAL_EVALUATION_S = 300.0
EVALUATION_TICK_S = 0.5
MAX_REFUSED = 3
"""Batches in a row that no update could be made of, or of less than half, before the learner gives up."""

MAX_TOLD = 5

MAX_UNCOVERED = 2
"""Groups that Redis may hold for want of a checkpoint, over those that are learned from between two of them."""


class Learner:
    """Leads a run from its newest checkpoint to its last step, or until the run is told to drain.

    Where it has several ranks it is the first of them, and the others meet it at its `host`, as do engines that take the
    weights from it directly.
    """

    def __init__(
        self, settings: LearnerSettings, client: Client, activity: Activity | None = None, *, host: str = LOOPBACK
    ) -> None:
        self._settings = settings
        self._activity = activity or Activity()
        self._client = client
        self._bulletin = Bulletin(client, settings.run)
        self._lane = Lane(client, settings.run, TRAIN)
        self._sender = Sender(host) if settings.broker.weights == "direct" else None
        self._weights = open_store(client, settings.run, settings.broker, settings.directory / "weights", self._sender)
        self._epoch = self._bulletin.lead()  # first, so that no earlier learner writes a checkpoint after this look
        checkpoint = settings.checkpoints().load_latest()
        if checkpoint is not None and checkpoint.state.epoch >= self._epoch:  # a clock went back
            self._epoch = self._bulletin.lead(after=checkpoint.state.epoch)
        self._reporter = Reporter(self._bulletin, epoch=self._epoch, steps=settings.learner.steps)
        self._ranks = self._mustered(host)
        self._ranks.tell("begin", step=None if checkpoint is None else checkpoint.state.step)
        self._reporter.event("loading the model")
        dataset = Dataset(settings.dataset)
        self._solved = SolveRates(settings.algorithm.filters.solved, dataset)
        self._pupil = Pupil(settings, dataset.identity, checkpoint, self._ranks)
        _require_rows(self._pupil, dataset)
        self._keeper = Keeper(settings, self._pupil, self._ranks, epoch=self._epoch, permit=self._permit)
        state = LearnerState(step=0, version=0, trained=[], epoch=self._epoch)
        if checkpoint is not None:
            state = checkpoint.state
            self._solved.load(state.solved)
            self._reporter.event(f"resumed from the checkpoint of step {state.step}")
        self._source = GroupSource(
            self._lane,
            Ledger(state.trained),
            epoch=self._epoch,
            filtered=state.filtered,
            unfit=self._unfit,
        )
        self._feeder = Feeder(
            self._lane,
            dataset,
            self._source,
            settings.flow(self._epoch),
            teaches=self._solved.teaches,
        )
        self._evaluator = Evaluator(
            Lane(client, settings.run, EVAL),
            self._held_out(dataset),
            samples=settings.evaluation.samples,
            epoch=self._epoch,
            report=self._report_eval,
            warn=self._reporter.warn,
            **self._gallery(),
        )
        self._publisher = Publisher(
            self._weights,
            self._pupil.adapter_config(),
            epoch=self._epoch,
            ranks=self._ranks,
            shared=not settings.leader_publishes,
            direct=self._sender is not None,
        )
        self._refused = 0
        self._num_refused = 0
        self._num_unfit = 0

    def _gallery(self) -> dict[str, Any]:
        """What looks at the images of an evaluation, of an image policy."""
        if self._settings.denoising is None:
            return {}
        from .gallery import Gallery

        gallery = Gallery(self._settings.directory, self._settings.evaluation)
        return {"examine": (gallery.draw, gallery.measure, gallery.judge)}

    def _held_out(self, dataset: Dataset) -> list[dict[str, Any]]:
        """The rows to evaluate on; images of them are made of the same noise at every evaluation."""
        rows = dataset.eval_rows() if self._settings.evaluation.every_steps else []
        if self._settings.denoising is None:
            return rows
        return [{**row, LOOKED_AT: number} for number, row in enumerate(rows)]

    def _mustered(self, host: str) -> Ranks:
        count = self._settings.learner.ranks
        if count == 1:
            return ALONE
        self._reporter.event(f"waiting for the other {count - 1} of its {count} ranks")
        meeting, directory = Meeting(self._client, self._settings.run), self._settings.directory
        return lead(meeting, epoch=self._epoch, host=host, count=count, directory=directory)

    def run(self) -> None:
        """Train until the last step or the order to drain; leaves a checkpoint and a final record behind."""
        self._begin()
        self._reporter.event(f"at step {self._pupil.step} of {self._settings.learner.steps}, waiting for groups")
        if self._pupil.step < self._settings.learner.steps:
            self._evaluate(self._copied_weights())
        while self._pupil.step < self._settings.learner.steps and not self._draining():
            if not self._one_step():
                break
        self._finish()

    def _begin(self) -> None:
        """Publish what training starts from, and begin to fetch."""
        self._keeper.sweep()
        self._publish_start()
        self._source.start()

    def _one_step(self) -> bool:
        """Take a batch and learn from it; False if told to drain while waiting for it."""
        began = time.perf_counter()
        filtered = self._source.filtered
        came = gather(
            self._source, self._settings, idle=self._idle, pass_over=self._pass_over, warn=self._reporter.warn
        )
        deliveries = came.deliveries
        if not deliveries:
            return False
        gathered = time.perf_counter()
        try:
            taken = self._learn([delivery.group for delivery in deliveries])
        except TrainingError as error:
            self._refused += 1
            self._refuse(deliveries, str(error))
            return True
        self._refused = self._refused + 1 if 2 * len(taken.refused) > len(deliveries) else 0
        for cause in dict.fromkeys(taken.refused.values()):
            self._refuse([deliveries[place] for place, why in taken.refused.items() if why == cause], cause)
        deliveries = [each for place, each in enumerate(deliveries) if place not in taken.refused]
        self._note_solved(deliveries)
        self._source.settle(deliveries)
        self._activity.mark(self._pupil.version)
        trained = time.perf_counter()
        weights = self._copied_weights()
        self._publisher.publish(self._pupil.version, weights)
        published = time.perf_counter()
        self._top_up()
        self._after_step(weights)
        timing = {"wait_s": gathered - began, "train_s": trained - gathered, "publish_s": published - trained}
        timing |= {"decode_s": sum(delivery.decode_s for delivery in came.deliveries)}
        timing |= {"step_s": time.perf_counter() - began, "groups_filtered": self._source.filtered - filtered}
        self._report_step(deliveries, taken.measured | timing | came.rewards.means())
        return True

    def _learn(self, groups: list[Group[Any]]) -> Taken:
        """A step, and where that is wanted the recording of what it was taken on."""
        version = self._pupil.version
        taken = self._pupil.learn(groups)
        if self._settings.learner.record:
            self._keeper.record(Lesson(self._pupil.step, version, self._pupil.resumes, groups))
        return taken

    def _pass_over(self, constant: list[Delivery]) -> None:
        """Count groups that teach nothing as looked at, and issue others.

        Many may come between two steps, and Redis holds each until a checkpoint covers it.
        """
        self._note_solved(constant)
        self._source.settle(constant, learned=False)
        self._top_up()
        between = self._settings.learner.groups_per_step * self._settings.checkpoint.every_steps
        if self._source.num_uncovered > MAX_UNCOVERED * between:
            self._checkpoint(self._copied_weights())

    def _note_solved(self, deliveries: list[Delivery]) -> None:
        for group in (delivery.group for delivery in deliveries):
            self._solved.note(group.prompt_id, group.rewards.tolist())

    def _refuse(self, deliveries: list[Delivery], cause: str) -> None:
        """Dead-letter groups that cannot be learned from; raises TrainingError when batch after batch is like that."""
        if self._refused >= MAX_REFUSED:
            raise TrainingError(f"{cause}; {self._refused} batches in a row were like that")
        self._num_refused += len(deliveries)
        self._source.reject(deliveries, cause)
        self._feeder.look_again()  # a group that Redis had forgotten leaves no dead letter
        prompts = ", ".join(str(each.group.prompt_id) for each in deliveries[:8])
        self._reporter.event(f"{len(deliveries)} groups are dead-lettered (prompts {prompts}): {cause}", level="error")

    def _unfit(self, group: Group[Any]) -> str | None:
        """Why a group that has come cannot be learned from; the first few such are told of, all are dead letters."""
        cause = self._pupil.unfit(group)
        if cause is not None:
            self._num_unfit += 1
            if self._num_unfit <= MAX_TOLD:
                more = "; no more of these are shown, see `areal dead list`" if self._num_unfit == MAX_TOLD else ""
                self._reporter.event(f"a group is dead-lettered: {cause}{more}", level="error")
        return cause

    def _after_step(self, weights: dict[str, Tensor]) -> None:
        last = self._pupil.step == self._settings.learner.steps
        if not last and self._pupil.step % self._settings.checkpoint.every_steps == 0:
            self._checkpoint(weights)
        elif not last:
            self._keeper.archive(weights)
        every = self._settings.evaluation.every_steps
        if not last and every and self._pupil.step % every == 0:
            self._evaluate(weights)

    def _finish(self) -> None:
        weights = self._copied_weights()
        self._checkpoint(weights)
        self._publisher.wait()
        finished = self._pupil.step >= self._settings.learner.steps
        if finished and self._settings.evaluation.every_steps:
            self._evaluate_last(weights)
        self._ranks.tell("settle")
        self._keeper.wait()
        self._source.close()
        self._evaluator.close()
        self._keeper.drop()
        if finished:
            self._pupil.save_pretrained(self._settings.directory / "model")
        self._report_end()
        if self._sender is not None:
            self._sender.close()
        self._ranks.tell("end")
        leave(self._ranks)

    def _evaluate_last(self, weights: dict[str, Tensor]) -> None:
        """Evaluate what the run has come to, after the round that may be under way, unless told to drain."""
        self._reporter.event("the last evaluation")
        deadline = time.monotonic() + FINAL_EVALUATION_S
        began = False
        while not (self._evaluator.finish(EVALUATION_TICK_S) and began):
            began = began or self._begin_evaluation(weights)
            self._publisher.ensure()
            if self._draining() or time.monotonic() > deadline:
                self._reporter.warn("the last evaluation did not end in time")
                return

    def _publish_start(self) -> None:
        """Publish what training starts from, under a version above every one that an earlier learner published."""
        latest = self._weights.latest()
        if latest is not None:
            self._pupil.rename(max(self._pupil.version, latest.version) + 1)
        self._publisher.publish(self._pupil.version, self._copied_weights())
        self._publisher.wait()

    def _checkpoint(self, weights: dict[str, Tensor]) -> None:
        """Let the state be copied aside and written; what it covers is acknowledged once it is durable."""
        snapshot = self._pupil.snapshot(
            weights,
            trained=self._source.ledger.ranges(),
            epoch=self._epoch,
            filtered=self._source.filtered,
            solved=self._solved.state(),
        )
        covered = self._source.settled()
        self._keeper.checkpoint(snapshot, done=lambda: self._source.acknowledge(covered))

    def _copied_weights(self) -> dict[str, Tensor]:
        return self._pupil.weights(by_leader=self._settings.leader_publishes)

    def _permit(self) -> None:
        require_lead(self._client, self._settings.run, self._epoch)

    def _evaluate(self, weights: dict[str, Tensor]) -> None:
        if not self._begin_evaluation(weights):
            logger.info("no evaluation at step %d: the one before is still under way", self._pupil.step)

    def _begin_evaluation(self, weights: dict[str, Tensor]) -> bool:
        """Whether a round has begun; its weights are put aside first, as its score may come at any time."""
        if not self._evaluator.finish(0):
            return False
        self._keeper.put_aside(weights)
        return self._evaluator.begin(step=self._pupil.step, version=self._pupil.version)

    def _report_eval(self, record: dict[str, Any]) -> None:
        """A round that has ended; one without all its answers says little of its weights."""
        self._reporter.evaluation(record)
        step, unanswered = record["step"], record["unanswered"]
        if unanswered:
            self._reporter.warn(
                f"{unanswered} held-out rows came back unanswered; the score of step {step} is not judged"
            )
        else:
            self._keeper.judge(step, record["accuracy"])

    def _idle(self) -> bool:
        """Called while waiting for groups: replace what was lost on the way; True to stop waiting."""
        self._publisher.ensure()
        self._ranks.reassure()
        self._top_up()
        return self._draining()

    def _top_up(self) -> None:
        needed = (self._settings.learner.steps - self._pupil.step) * self._settings.learner.groups_per_step
        self._feeder.top_up(version=self._pupil.version, needed=needed)

    def _draining(self) -> bool:
        return self._bulletin.ordered() == DRAIN

    def _report_step(self, learned: Sequence[Delivery], measured: dict[str, Any]) -> None:
        counts = {"groups_waiting": self._source.num_waiting, "groups_refused": self._num_refused}
        self._num_refused = 0
        self._reporter.step(self._pupil.step, self._pupil.version, learned, counts | measured)

    def _report_end(self) -> None:
        depth, ledger = self._lane.depth(), self._source.ledger
        self._reporter.final(
            self._pupil.step,
            self._pupil.version,
            depth=depth,
            groups_trained=len(ledger) - self._source.filtered,
            groups_filtered=self._source.filtered,
            groups_lost=len(ledger.missing(depth.issued, self._lane.positions())),
            outstanding=self._source.outstanding(self._lane.listing()),
        )


def _require_rows(pupil: Pupil, dataset: Dataset) -> None:
    """Raises ConfigError if the policy cannot answer one of the held-out rows, or of the first to train on.

    What comes later and is no better is a dead letter by itself; but a data set that does not suit the model shows here.
    """
    first = min(LOOKED_THROUGH, dataset.num_rows or LOOKED_THROUGH)
    for row in [*dataset.eval_rows(), *map(dataset.train_row, range(first))]:
        pupil.require_row(row)
