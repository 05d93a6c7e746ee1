"""`areal run`: starts Redis and the roles, follows them, and leaves nothing running behind."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...broker.bulletin import DRAIN, RUN, Bulletin
from ...broker.client import Client, connect
from ...broker.errors import ArealError
from ...broker.fleet import Fleet
from ...broker.helm import DRAINING, STOP_NOW, Helm
from ...broker.keys import TRAIN
from ...broker.lane import Lane
from ...broker.rollcall import RollCall
from ..cluster.beside import beside_all, beside_each
from ..cluster.loopback import keep_ray_on_loopback
from ..cluster.shipping import shipment_of
from ..cluster.supervisor import Supervisor
from ..cluster.transport import choose_transport, require_room, told
from ..config import RunConfig, to_yaml
from ..fleet.scaler import Broker, Scaler
from ..models.path import resolve_model
from ..records.rundir import DRIVER_LOG, METRICS, REDIS, RunDirectory, read_metrics
from ..records.tally import Tally, identity
from ..records.words import IMAGES, TEXTS
from ..roles import RoleSpec
from .hangup import deferring_hangup
from .inputs import check_inputs
from .interrupts import Interrupts
from .keeper import RedisKeeper
from .logbook import INTERRUPTED, Logbook
from .progress import Progress
from .watch import RollWatch

logger = logging.getLogger(__name__)

BEGUN_BY = ("worker", "step", "eval")
"""Records that come only once the roles are at work."""

RECALLED = ("step", "eval")
RECALL_S = 900.0
"""So long before the newest record others are looked for that no driver has heard."""

SUMMARY_EVERY_S = 5.0
READ_S = 0.25
ANSWER_S = 2.0
"""How long a call of the driver waits for Redis before it looks whether the server still lives."""


def execute(
    config: RunConfig,
    config_folder: Path,
    *,
    opened: Callable[[RunDirectory], None] = lambda rundir: None,
    guard: int | None = None,
) -> int:
    """Run, or resume, a configuration; returns the exit code: 0 done, 130 drained on request. Raises ArealError.

    opened: called once the run directory is this process's own, before anything is shown.
    guard: the process that starts another driver in this one's place if it is killed, if there is one.
    """
    if config.cluster.address is None:
        keep_ray_on_loopback()
    model_path = str(resolve_model(config.model.path, config_folder, pipeline=config.denoising is not None))
    check_inputs(config)
    words = TEXTS if config.denoising is None else IMAGES
    with RunDirectory(config.path, config=to_yaml(config)) as rundir:
        opened(rundir)
        with Progress(config.run, words=words) as progress:
            driver = Driver(config, model_path, rundir, progress, guard=guard)
            with driver.logbook.until_end():
                exit_code = driver.show() if driver.has_nothing_to_do() else driver.run()
                driver.logbook.close(exit_code)
                return exit_code


class Driver:
    """The process that a person starts: it owns Redis, Ray and the display, and works by records alone."""

    def __init__(
        self,
        config: RunConfig,
        model_path: str,
        rundir: RunDirectory,
        progress: Progress,
        *,
        guard: int | None = None,
    ) -> None:
        self._config = config
        self._model_path = model_path
        self._rundir = rundir
        self._progress = progress
        self._guard = guard
        self.logbook = Logbook(rundir.path, run=config.run, draws=config.denoising is not None, guard=guard)
        self._unposted: list[dict[str, Any]] = []
        self._tally = Tally(time.time(), earlier=rundir.earlier, invocations=rundir.invocations)
        self._redis = RedisKeeper(config.broker, rundir.path / REDIS, self._say)
        self._patiently = self._redis.patiently
        self._interrupts = Interrupts(rundir.logs / DRIVER_LOG)
        self._scaler: Scaler | None = None
        self._finished = False
        self._after = "0"
        self._undrained = ""
        self._saved_at = time.monotonic()

    def has_nothing_to_do(self) -> bool:
        """Whether an earlier invocation has taken all the steps wanted."""
        newest = self._rundir.earlier[-1:]
        return any(r["kind"] == "final" and r["finished"] and r["step"] >= self._config.learner.steps for r in newest)

    def show(self) -> int:
        """Say what a run that is done came to, and how to go on."""
        self._say(f"{self._config.run} is done; raise learner.steps to go on, or give run=NAME to start anew")
        self._progress.finish(self._tally.summary(), self._rundir.path)
        return 0

    def run(self) -> int:
        """Start everything, follow it to its end, stop everything."""
        with self._interrupts.heard(), self._redis.url() as url:
            client = self._patiently(partial(connect, url, timeout_s=ANSWER_S))
            with self.logbook.until_end(Helm(client, self._rundir.key)):
                self._drive(url, client)
                exit_code = INTERRUPTED if self._interrupts.count and not self._finished else 0
                self.logbook.close(exit_code, self._undrained)
        return exit_code

    def _drive(self, url: str, client: Client) -> None:
        self._choose_transport(client, url)
        bulletin = Bulletin(client, self._rundir.key)
        self._patiently(partial(bulletin.keep_order, RUN))
        self._recall(bulletin)
        roll = RollCall(client, self._rundir.key, silent_after_s=self._config.broker.lease_s)
        watch = RollWatch(roll)
        supervisor = Supervisor(
            self._config.cluster,
            self._companies(url),
            gpus_per_engine=self._config.rollout.engine.tensor_parallel_size,
            beside=beside_all(self._config),
            shipment=shipment_of(self._config),
            heard=partial(self._patiently, roll.heard),
        )
        self._scaler = Scaler(
            self._config,
            Broker(Fleet(client, self._rundir.key), roll, Lane(client, self._rundir.key, TRAIN)),
            supervisor,
            partial(self._worker, url),
            beside=beside_each(self._config),
        )
        self._patiently(self._scaler.begin)
        try:
            self._tell_unguarded()
            self._say("starting Ray and the roles")
            with deferring_hangup():
                supervisor.start()
            self._interrupts.hear()  # Ray has taken SIGTERM for itself
            self._follow(supervisor, bulletin, watch)
            self._patiently(self._scaler.await_guests)
        finally:
            try:
                supervisor.stop()
            finally:
                self._say_the_end(bulletin)
                self._conclude()

    def _tell_unguarded(self) -> None:
        if self._config.cluster.on_driver_loss == "restart" and self._guard is None:
            self._say(
                "cluster.on_driver_loss is restart, which needs --detach: nobody starts another driver here", "warning"
            )

    def _recall(self, bulletin: Bulletin) -> None:
        """Keep what the learner has told since an earlier driver was killed, which it may outlive by a while on a cluster."""
        self._after = self._patiently(bulletin.last)
        known = {identity(record) for record in self._rundir.earlier}
        for record in self._patiently(partial(bulletin.before, self._after, RECALL_S)):
            if record["kind"] in RECALLED and identity(record) not in known:
                with self._taking(record):
                    self._rundir.write(record)
                    self._tally.recall(record)

    def _say_the_end(self, bulletin: Bulletin) -> None:
        """Whatever the run has ended on, workers from outside are to leave, and nothing that was told is lost."""
        try:
            bulletin.keep_order(DRAIN)
            self._take_new(bulletin)
        except (ArealError, KeyboardInterrupt) as error:
            logger.warning("the last records of the run could not be read: %r", error)

    def _follow(self, supervisor: Supervisor, bulletin: Bulletin, watch: RollWatch) -> None:
        order, drained_by = RUN, math.inf
        scaler = self._scaler
        assert scaler is not None
        while not supervisor.all_done():
            self._take_new(bulletin)
            supervisor.tick()
            self._patiently(partial(scaler.tick, ending=order == DRAIN or supervisor.is_done("learner")))
            for level, text in [*supervisor.drain_events(), *scaler.drain_events(), *self._patiently(watch.changes)]:
                self._say(text, level)
            self._heed()
            if order == RUN and (self._interrupts.count or supervisor.is_done("learner")):
                order, drained_by = DRAIN, time.monotonic() + self._config.cluster.drain_s
                self.logbook.enter(DRAINING)
                if self._interrupts.count:
                    self._say("draining: the learner writes a checkpoint; a second Ctrl-C stops at once", "warning")
            self._patiently(partial(bulletin.keep_order, order))
            if time.monotonic() > drained_by:
                self._say(
                    f"not drained within {self._config.cluster.drain_s:g} s (cluster.drain_s); stopping", "warning"
                )
                self._note_undrained(supervisor)
                break
            self._save_now_and_then()

    def _note_undrained(self, supervisor: Supervisor) -> None:
        if not supervisor.is_done("learner"):
            self._undrained = (
                f"the learner had not drained within {self._config.cluster.drain_s:g} s, and was killed: what it has learned "
                "since its newest checkpoint is lost. Set cluster.drain_s to more than a step and a checkpoint take"
            )

    def _heed(self) -> None:
        """Do what is asked of this driver from elsewhere (`areal stop`), or by the end of its terminal."""
        asked = self._patiently(self.logbook.asked)
        if asked == STOP_NOW:
            raise KeyboardInterrupt
        if asked is not None and not self._interrupts.count:
            self._say("asked to stop")
            self._interrupts.ask()
        if self._interrupts.hung_up:
            self._progress.be_plain()

    def _take_new(self, bulletin: Bulletin) -> None:
        """Post what this driver has said, and take in the records that have come."""
        while self._unposted:
            said = self._unposted[0] | {"invocation": self.logbook.invocation}
            self._patiently(partial(bulletin.report, said))
            del self._unposted[0]
        records, self._after = self._patiently(lambda: bulletin.read(self._after, timeout_s=READ_S))
        for record in records:
            if record.get("invocation") == self.logbook.invocation:
                continue  # its own words
            with self._taking(record):
                self._take(record)

    @contextmanager
    def _taking(self, record: dict[str, Any]) -> Iterator[None]:
        """Passes over a record that is not as it should be: who knows who wrote it."""
        try:
            yield
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            logger.warning("a record of kind %r is not as it should be (%r)", record["kind"], error)

    def _take(self, record: dict[str, Any]) -> None:
        self._rundir.write(record)
        self._tally.add(record)
        self._progress.show(record)
        if self._scaler is not None:
            self._scaler.add(record)
        if record["kind"] == "step":
            self.logbook.note(record)
        if record["kind"] == "final":
            self._finished = record["finished"]
        elif record["kind"] in BEGUN_BY:
            self.logbook.begin()

    def _say(self, text: str, level: str = "info") -> None:
        self._unposted.append(_event(text, level))
        self._take(self._unposted[-1])

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > SUMMARY_EVERY_S:
            self._saved_at = time.monotonic()
            self._rundir.write_summary(self._tally.summary())

    def _conclude(self) -> None:
        summary = self._tally.summary()
        try:
            self._rundir.write_summary(summary)
            from ..records.chart import draw_reward_curve

            draw_reward_curve(read_metrics(self._rundir.path / METRICS), self._rundir.chart, run=self._config.run)
        except Exception as error:  # a full disk, say: what the run itself ended on matters more
            self._progress.show(_event(f"the summary or the chart could not be written: {error}", "error"))
        if summary["steps"]:
            self._progress.finish(summary, self._rundir.path)

    def _companies(self, url: str) -> list[list[RoleSpec]]:
        """The ranks of the learner, which live and die together, and each rollout worker."""
        learners = ["learner", *(f"learner-{rank}" for rank in range(1, self._config.learner.ranks))]
        return [
            [self._spec(url, name, rank) for rank, name in enumerate(learners)],
            *([self._worker(url, index)] for index in range(self._config.rollout.workers)),
        ]

    def _worker(self, url: str, index: int) -> RoleSpec:
        return self._spec(url, f"rollout-{index}", index)

    def _spec(self, url: str, name: str, index: int) -> RoleSpec:
        config = self._config.model_dump(mode="json")
        passed = {variable: os.environ[variable] for variable in self._config.cluster.pass_env}
        told = (config, self._model_path, url, str(self._rundir.path), self._rundir.key)
        return RoleSpec(name, *told, index=index, environment=passed)

    def _choose_transport(self, client: Client, url: str) -> None:
        """Settle how the weights travel, for all roles, and say so. Raises ArealError."""
        choice = choose_transport(self._config, url)
        broker = self._config.broker.model_copy(update={"weights": choice.weights})
        self._config = self._config.model_copy(update={"broker": broker})
        if choice.weights == "redis":
            require_room(client, self._config, self._model_path)
        self._say(told(choice))


def _event(text: str, level: str) -> dict[str, Any]:
    return {"kind": "event", "time": time.time(), "level": level, "text": text}
