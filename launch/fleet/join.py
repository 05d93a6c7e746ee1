"""`areal join`: rollout workers from any machine that reaches a run's Redis and its weights, without Ray.

They are started and looked after here, lease prompts as the run's own do, and leave without a trace: on Ctrl-C they finish
what is under way, on the second (or after cluster.drain_s) they hand it back, on the third they are killed.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...broker.address import with_credentials
from ...broker.bulletin import DRAIN, LEAVE, RUN, Bulletin
from ...broker.chunks import RedisChunks
from ...broker.client import Client
from ...broker.direct import depot_of
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable, CodecError, ConfigError, ModelError
from ...broker.fleet import Fleet
from ...broker.rollcall import RollCall
from ...broker.weights import WeightStore
from ..cluster.process import RoleProcess, own_environment
from ..config import RunConfig
from ..control.locate import Located, Place, open_run
from ..models.path import require_vllm, resolve_model
from ..roles import ROLLOUT, RoleSpec
from ..screen import Screen, plural
from .offer import read_offer

logger = logging.getLogger(__name__)

T = TypeVar("T")

TICK_S = 0.25
LOOK_S = 0.5
BACKOFF_S = 1.0
REACH_S = 5.0
STEADY_S = 120.0
"""A worker that has lived for so long before it died starts with a clean count."""

HURRY_S = 15.0
"""How long workers may take to hand back what they hold."""

FATAL = (ConfigError, ModelError)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FIRST_NUMBER, NUMBERS = 1000, 1_000_000
"""The run's own workers have lower numbers, by which each seeds its engine."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    url: str
    run: str
    workers: int
    overrides: Sequence[str]
    trusted: bool
    logs: Path | None


@dataclass(slots=True)
class Guest:
    """A worker, its process while it runs, and how often in a row it has died; it is started (again) at `start_at`."""

    spec: RoleSpec
    process: RoleProcess | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    deaths: int = 0
    done: bool = False


def execute(wanted: Wanted) -> int:
    """Work for a run until it ends, or a person says so; returns the exit code. Raises ArealError."""
    with open_run(wanted.run, Place(broker=wanted.url)) as run:
        config = _configured(run, wanted)
        model_path = _model(config)
        _require_weights(run, config)
        _tell_unset(config)
        folder = (wanted.logs or Path("joined") / run.key).resolve()
        specs = _specs(wanted, config, run.key, model_path, folder)
        return Guests(config, specs, run).work()


def _configured(run: Located, wanted: Wanted) -> RunConfig:
    """The run's configuration, as it is for workers here. Raises ArealError."""
    try:
        offer = Fleet(run.client, run.key).offer()
    except CodecError as error:
        raise ConfigError(str(error)) from None
    if offer is None:
        raise ArealError(
            f"{run.name} takes no workers from outside: its `areal run` has not offered its configuration yet"
        )
    if Bulletin(run.client, run.key).ordered() == DRAIN:
        raise ArealError(f"{run.name} is ending, or has ended: start it again with `areal run` before workers join it")
    config = read_offer(offer, wanted.overrides, run=run.name, trusted=wanted.trusted)
    if config.rewards.where == "ray" and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "rewards.where is ray, and RAY_ADDRESS names no cluster here: set it, or have the rewards computed beside the "
            "workers (rewards.where=local)"
        )
    return config


def _tell_unset(config: RunConfig) -> None:
    """Say which variables the run's own workers have that are not set here: whoever may write to Redis names them."""
    named = [*config.cluster.env.rollout, *config.cluster.pass_env]
    unset = [name for name in named if name not in os.environ]
    if unset:
        told = f"the run's own workers have {', '.join(unset)} in their environment (cluster.env, cluster.pass_env)"
        Screen().put((f"{told}; workers here have what is set here", "yellow"))


def _model(config: RunConfig) -> str:
    """The model that engines here begin from. Raises ConfigError, and EngineError if there is no engine for it."""
    if config.denoising is None:
        require_vllm()
    lora = config.denoising.consistency_lora if config.denoising else None
    if lora is not None and lora.startswith("/") and not Path(lora).is_dir():
        raise ConfigError(f"denoising.consistency_lora is {lora}, and there is no such folder here: say where it is")
    try:
        return str(resolve_model(config.model.path, Path.cwd(), pipeline=config.denoising is not None))
    except ConfigError as error:
        raise ConfigError(f"{error} (say where it is on this host: model.path=…)") from None


def _require_weights(run: Located, config: RunConfig) -> None:
    """Raises ConfigError if the run's weights cannot be seen from here."""
    if config.broker.weights == "redis":
        return
    if config.broker.weights == "direct":
        _require_depot(run)
        return
    folder = config.path / "weights"
    store = WeightStore(run.client, run.key, RedisChunks(run.client, run.key))
    for _ in range(3):  # the oldest are deleted as new ones come
        newest = store.latest()
        if folder.is_dir() and (newest is None or newest.is_odd or (folder / newest.name).is_dir()):
            return
        if newest is None and config.path.is_dir():
            return
        time.sleep(LOOK_S)
    raise ConfigError(
        f"the weights of {run.name} are shared in {folder}, which cannot be seen from here: mount it (directory=… says where "
        f"the folder of runs is on this host), or start the run with broker.weights=redis"
    )


def _require_depot(run: Located) -> None:
    """Raises ConfigError if the learner that holds the run's weights cannot be reached from here."""
    depot = depot_of(run.client, run.key)
    if depot is None:  # there are no weights yet
        return
    try:
        socket.create_connection((depot.host, depot.port), timeout=REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"the learner of {run.name} hands out its weights at {depot.host}, port {depot.port}, which cannot be reached "
            f"from here ({error}): open all ports between the two, or start the run with broker.weights=redis (without "
            "cluster.address, a run's learner listens on its own machine alone)"
        ) from None


def _specs(wanted: Wanted, config: RunConfig, key: str, model_path: str, folder: Path) -> list[RoleSpec]:
    """Workers whose names nobody else bears, for whom the broker is at the URL given here."""
    token = secrets.token_hex(4)
    first = FIRST_NUMBER + int(token, 16) % NUMBERS
    told = (config.model_dump(mode="json"), model_path, with_credentials(wanted.url), str(folder), key)
    return [
        RoleSpec(f"{ROLLOUT}-j{token}-{index}", *told, index=first + index, shared=str(config.path))
        for index in range(wanted.workers)
    ]


class Guests:
    """Owns the processes of the workers that were started here."""

    def __init__(self, config: RunConfig, specs: Sequence[RoleSpec], run: Located) -> None:
        self._config = config
        self._run = run
        self._client: Client = run.client
        self._guests = [Guest(spec) for spec in specs]
        self._fleet = Fleet(run.client, run.key)
        self._bulletin = Bulletin(run.client, run.key)
        self._roll = RollCall(run.client, run.key, silent_after_s=config.broker.lease_s)
        self._screen = Screen()
        self._interrupts = 0
        self._heeded = 0
        self._leaving_at: float | None = None
        self._ending = self._redis_is_gone = False
        self._looked_at = 0.0
        self._at_work: set[str] = set()

    def work(self) -> int:
        """Start the workers and look after them until all have ended; returns the exit code. Raises ArealError."""
        names = [guest.spec.name for guest in self._guests]
        log = self._guests[0].spec.log.parent
        self._say(f"{self._run.name}: starting {plural(len(names), 'worker')}, {', '.join(names)}; logs in {log}/")
        with self._interruptible():
            try:
                while not all(guest.done for guest in self._guests):
                    for guest in self._guests:
                        self._look_after(guest)
                    self._heed()
                    self._look()
                    time.sleep(TICK_S)
            finally:
                self._kill_all()
        left = self._interrupts and not self._ending
        self._say(f"{self._run.name} {'goes on without them' if left else 'has ended'}")
        return 130 if left else 0

    # Orders

    def _heed(self) -> None:
        """Say what Ctrl-C has begun, and end it where it takes too long."""
        if self._interrupts > self._heeded:
            self._heeded = self._interrupts
            if self._heeded == 1:
                self._say("leaving: what is under way is finished first; Ctrl-C again to hand it back at once")
            else:
                self._say("handing back what is under way; Ctrl-C again to kill the workers")
            self._leave()
        if self._leaving_at is not None and self._late_s() > HURRY_S:
            self._say("the workers are killed, and what they held goes to others", "yellow")
            self._kill_all()

    def _leave(self) -> None:
        self._leaving_at = self._leaving_at or time.monotonic()

    def _late_s(self) -> float:
        assert self._leaving_at is not None
        return time.monotonic() - self._leaving_at - self._config.cluster.drain_s

    def _word(self) -> str:
        """What the workers are to be told."""
        if self._leaving_at is None:
            return RUN
        return DRAIN if self._late_s() > 0 or self._heeded > 1 else LEAVE

    def _look(self) -> None:
        """Tell the workers, see whether the run goes on, and who is at work. Raises ArealError if Redis stays away."""
        if self._ending or time.monotonic() - self._looked_at < LOOK_S:
            return
        staying = [guest.spec.name for guest in self._guests if not guest.done]
        self._patiently(lambda: self._fleet.keep_orders(dict.fromkeys(staying, self._word())))
        if self._patiently(self._bulletin.ordered) == DRAIN:
            self._ending = True
            self._leave()
        heard = self._patiently(self._roll.heard)
        at_work = {each.member.name for each in heard if not each.silent and each.member.version >= 0}
        for name in sorted(at_work.intersection(staying) - self._at_work):
            self._say(f"{name} is at work")
        self._at_work = at_work
        self._looked_at = time.monotonic()

    def _patiently(self, call: Callable[[], T]) -> T:
        """What a call to Redis returns, which is waited for as long as the workers wait for it."""
        deadline = time.monotonic() + self._config.broker.timeout_s
        while True:
            try:
                return call()
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise

    # Processes

    def _look_after(self, guest: Guest) -> None:
        if guest.process is not None and guest.process.has_ended():
            self._end(guest)
        elif guest.process is None and not guest.done and guest.start_at is not None:
            if self._leaving_at is not None:
                self._be_done(guest)
            elif time.monotonic() >= guest.start_at:
                guest.process = RoleProcess(guest.spec, own_environment())
                guest.started_at, guest.start_at = time.monotonic(), None

    def _end(self, guest: Guest) -> None:
        """Note how a worker has ended, and plan its next start. Raises ArealError when it cannot be kept alive."""
        process, guest.process = guest.process, None
        assert process is not None
        try:
            process.require_good_end()
            self._be_done(guest)
        except Exception as error:
            if self._leaving_at is not None:
                logger.warning("%s ended on %s", guest.spec.name, error)
                self._be_done(guest)
                return
            self._plan_restart(guest, error)

    def _plan_restart(self, guest: Guest, error: Exception) -> None:
        if isinstance(error, FATAL):
            raise error
        if time.monotonic() - guest.started_at > STEADY_S:
            guest.deaths = 0
        guest.deaths += 1
        name, log = guest.spec.name, guest.spec.log
        if guest.deaths > self._config.cluster.max_restarts:
            raise ArealError(f"{name} died {guest.deaths} times in a row: {error}\n  its log: {log}") from error
        delay_s = BACKOFF_S * 2 ** (guest.deaths - 1)
        guest.start_at = time.monotonic() + delay_s
        self._say(f"{name} died ({error}); starting it again in {delay_s:g} s", "yellow")

    def _be_done(self, guest: Guest) -> None:
        """A worker is not started again, and nothing is left of it in Redis, if that is still there."""
        guest.done, guest.process, guest.start_at = True, None, None
        if self._redis_is_gone:
            return
        try:
            self._fleet.keep_orders({guest.spec.name: RUN})
            self._roll.leave(guest.spec.name)
        except BrokerError as error:
            self._redis_is_gone = True
            logger.warning("%s could not be struck off the roll: %s", guest.spec.name, error)

    def _kill_all(self) -> None:
        left = [guest for guest in self._guests if not guest.done]
        for guest in left:
            if guest.process is not None:
                guest.process.kill()
        for guest in left:
            self._be_done(guest)

    # The terminal

    def _say(self, text: str, style: str = "") -> None:
        self._screen.put((text, style))
        sys.stdout.flush()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        """Only counts, as it may run in the middle of anything; the third one ends all at once."""
        self._interrupts += 1
        if self._interrupts > 2:
            raise KeyboardInterrupt
