"""`areal run`: starts Redis and the roles, follows them, and leaves nothing running behind."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ...broker.address import with_credentials
from ...broker.bulletin import DRAIN, RUN, Bulletin
from ...broker.client import Client, connect
from ...broker.errors import BrokerUnavailable
from ...broker.fleet import Fleet
from ...broker.helm import DRAINING, STOP_NOW, Helm
from ...broker.keys import TRAIN
from ...broker.lane import Lane
from ...broker.rollcall import RollCall
from ...broker.server import EmbeddedRedis
from ..cluster.loopback import keep_ray_on_loopback
from ..cluster.shipping import shipment_of
from ..cluster.supervisor import Beside, Supervisor
from ..cluster.transport import choose_transport, require_room, told
from ..config import RunConfig, to_yaml
from ..fleet.scaler import Broker, Scaler
from ..models.path import resolve_model
from ..records.rundir import DRIVER_LOG, METRICS, REDIS, RunDirectory, read_metrics
from ..records.tally import Tally
from ..records.words import IMAGES, TEXTS
from ..roles import RoleSpec
from .hangup import HANGUP, deferring_hangup, leave_terminal
from .inputs import check_inputs
from .logbook import INTERRUPTED, Logbook
from .progress import Progress
from .watch import RollWatch

logger = logging.getLogger(__name__)

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEGUN_BY = ("worker", "step", "eval")
"""Records that come only once the roles are at work."""

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
        self._server: EmbeddedRedis | None = None
        self._scaler: Scaler | None = None
        self._interrupts = 0
        self._hung_up = False
        self._finished = False
        self._saved_at = time.monotonic()
        self._signals: Sequence[signal.Signals] = ()

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
        with self._interruptible(), self._redis() as url:
            client = self._patiently(partial(connect, url, timeout_s=ANSWER_S))
            with self.logbook.until_end(Helm(client, self._rundir.key)):
                self._drive(url, client)
                exit_code = INTERRUPTED if self._interrupts and not self._finished else 0
                self.logbook.close(exit_code)
        return exit_code

    def _drive(self, url: str, client: Client) -> None:
        self._choose_transport(client, url)
        bulletin = Bulletin(client, self._rundir.key)
        self._patiently(partial(bulletin.keep_order, RUN))
        after = self._patiently(bulletin.last)
        roll = RollCall(client, self._rundir.key, silent_after_s=self._config.broker.lease_s)
        watch = RollWatch(roll)
        supervisor = Supervisor(
            self._config.cluster,
            self._companies(url),
            gpus_per_engine=self._config.rollout.engine.tensor_parallel_size,
            beside=self._beside(),
            shipment=shipment_of(self._config),
            heard=partial(self._patiently, roll.heard),
        )
        self._scaler = Scaler(
            self._config,
            Broker(Fleet(client, self._rundir.key), roll, Lane(client, self._rundir.key, TRAIN)),
            supervisor,
            partial(self._worker, url),
            beside=self._beside_each(),
        )
        self._patiently(self._scaler.begin)
        try:
            self._tell_unguarded()
            self._say("starting Ray and the roles")
            with deferring_hangup():
                supervisor.start()
            self._catch_signals()  # Ray has taken SIGTERM for itself
            self._follow(supervisor, bulletin, watch, after)
            self._patiently(self._scaler.await_guests)
        finally:
            supervisor.stop()
            self._conclude()

    def _tell_unguarded(self) -> None:
        if self._config.cluster.on_driver_loss == "restart" and self._guard is None:
            self._say(
                "cluster.on_driver_loss is restart, which needs --detach: nobody starts another driver here", "warning"
            )

    def _follow(self, supervisor: Supervisor, bulletin: Bulletin, watch: RollWatch, after: str) -> None:
        order, drained_by = RUN, math.inf
        scaler = self._scaler
        assert scaler is not None
        while not supervisor.all_done():
            after = self._take_new(bulletin, after)
            supervisor.tick()
            self._patiently(partial(scaler.tick, ending=order == DRAIN or supervisor.is_done("learner")))
            for level, text in [*supervisor.drain_events(), *scaler.drain_events(), *self._patiently(watch.changes)]:
                self._say(text, level)
            self._heed()
            if order == RUN and (self._interrupts or supervisor.is_done("learner")):
                order, drained_by = DRAIN, time.monotonic() + self._config.cluster.drain_s
                self.logbook.enter(DRAINING)
                if self._interrupts:
                    self._say("draining: the learner writes a checkpoint; a second Ctrl-C stops at once", "warning")
            self._patiently(partial(bulletin.keep_order, order))
            if time.monotonic() > drained_by:
                self._say(
                    f"not drained within {self._config.cluster.drain_s:g} s (cluster.drain_s); stopping", "warning"
                )
                break
            self._save_now_and_then()
        self._take_new(bulletin, after)

    def _heed(self) -> None:
        """Do what is asked of this driver from elsewhere (`areal stop`), or by the end of its terminal."""
        asked = self._patiently(self.logbook.asked)
        if asked == STOP_NOW:
            raise KeyboardInterrupt
        if asked is not None and not self._interrupts:
            self._say("asked to stop")
            self._interrupts = 1
        if self._hung_up:
            self._progress.be_plain()

    def _take_new(self, bulletin: Bulletin, after: str) -> str:
        """Post what this driver has said, and take in the records since `after`; returns where to go on from."""
        while self._unposted:
            said = self._unposted[0] | {"invocation": self.logbook.invocation}
            self._patiently(partial(bulletin.report, said))
            del self._unposted[0]
        records, after = self._patiently(lambda: bulletin.read(after, timeout_s=READ_S))
        for record in records:
            if record.get("invocation") == self.logbook.invocation:
                continue  # its own words
            try:
                self._take(record)
            except (KeyError, TypeError, ValueError, OverflowError) as error:  # who knows who wrote it
                logger.warning("a record of kind %r is not as it should be (%r)", record["kind"], error)
        return after

    def _patiently(self, call: Callable[[], T]) -> T:
        """What a call to Redis returns; a Redis of the run's own that has died is started again, any other waited for.

        Raises BrokerUnavailable when it stays away for broker.timeout_s, after which the roles give up too.
        """
        deadline = time.monotonic() + self._config.broker.timeout_s
        while True:
            if self._server is not None and not self._server.alive:
                self._say("redis died; starting it again on its append-only file", "warning")
                self._server.start()
            try:
                return call()
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise

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

    def _beside(self) -> Beside:
        """What all workers have Ray place besides."""
        autoscale = self._config.cluster.autoscale
        return self._beside_each().times(max(self._config.rollout.workers, autoscale.max if autoscale else 0))

    def _beside_each(self) -> Beside:
        """The processes of a worker's rewards, where Ray places them."""
        rewards, wanted = self._config.rewards, self._config.rewards.resources
        each = Beside(wanted.cpus, wanted.gpus, wanted.custom)
        return each.times(rewards.workers if rewards.where == "ray" else 0)

    @contextmanager
    def _redis(self) -> Iterator[str]:
        """The broker's URL, of a server that lives as long as this run unless one was named."""
        if self._config.broker.url is not None:
            yield with_credentials(self._config.broker.url)  # for roles on nodes whose environment has none
            return
        self._server = EmbeddedRedis(self._rundir.path / REDIS, start_timeout_s=self._config.broker.timeout_s)
        self._say("starting redis")
        try:
            yield self._server.start()
        finally:
            self._server.stop()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) drains the run, the second stops it at once; the loss of its terminal drains it."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._signals = [number for number in SIGNALS if number != HANGUP or before[number] is not signal.SIG_IGN]
        self._catch_signals()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch_signals(self) -> None:
        for number in self._signals:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        """Does little, as it may run in the middle of anything; `_follow` does the rest."""
        if number == HANGUP:  # which may come twice, from the shell and from the kernel
            self._hung_up, self._interrupts = True, max(self._interrupts, 1)
            leave_terminal(self._rundir.logs / DRIVER_LOG)
            return
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt


def _event(text: str, level: str) -> dict[str, Any]:
    return {"kind": "event", "time": time.time(), "level": level, "text": text}
