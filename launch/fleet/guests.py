"""Workers from outside, on the machine that they were started on: their processes, their orders, and their end.

They leave when Ctrl-C says so, and hand back what they hold when nobody drives their run any more.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ...broker.bulletin import DRAIN, LEAVE, RUN, Bulletin
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable, ConfigError, ModelError
from ...broker.fleet import Fleet
from ...broker.helm import Helm
from ...broker.rollcall import RollCall
from ..cluster.process import RoleProcess, own_environment
from ..cluster.restarts import Restarts, is_steady
from ..config import RunConfig
from ..control.locate import Located
from ..roles import RoleSpec
from ..screen import Screen, plural
from .vigil import Vigil

logger = logging.getLogger(__name__)

T = TypeVar("T")

TICK_S = 0.25
LOOK_S = 0.5
HURRY_S = 15.0
"""How long workers may take to hand back what they hold."""

FATAL = (ConfigError, ModelError)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Guest:
    """A worker, its process while it runs, and how often it has died; it is started (again) at `start_at`."""

    spec: RoleSpec
    restarts: Restarts
    process: RoleProcess | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    done: bool = False


class Guests:
    """Owns the processes of the workers that were started here."""

    def __init__(self, config: RunConfig, specs: Sequence[RoleSpec], run: Located) -> None:
        self._config = config
        self._run = run
        self._guests = [Guest(spec, Restarts(config.cluster.max_restarts)) for spec in specs]
        self._fleet = Fleet(run.client, run.key)
        self._bulletin = Bulletin(run.client, run.key)
        self._roll = RollCall(run.client, run.key, silent_after_s=config.broker.lease_s)
        self._screen = Screen()
        self._vigil = Vigil(Helm(run.client, run.key), self._say)
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
        return DRAIN if self._ending or self._late_s() > 0 or self._heeded > 1 else LEAVE

    def _look(self) -> None:
        """Tell the workers, see whether the run goes on, and who is at work. Raises ArealError if Redis stays away."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        if self._ending:
            self._unless_gone(self._keep_orders)
        else:
            self._patiently(self._keep_orders)
            self._see_whether_it_goes_on()
            self._see_who_is_at_work()
        self._looked_at = time.monotonic()

    def _keep_orders(self) -> None:
        staying = [guest.spec.name for guest in self._guests if not guest.done]
        self._fleet.keep_orders(dict.fromkeys(staying, self._word()))

    def _see_whether_it_goes_on(self) -> None:
        """The workers end once their run is told to, or nobody is there who could tell it."""
        over = self._patiently(self._bulletin.ordered) == DRAIN
        if not over and (why := self._patiently(self._vigil.look)):
            self._say(f"nobody drives {self._run.name} any more: {why}", "yellow")
            over = True
        if over:
            self._ending = True
            self._leave()
            self._unless_gone(self._keep_orders)

    def _see_who_is_at_work(self) -> None:
        heard = self._patiently(self._roll.heard)
        names = {guest.spec.name for guest in self._guests if not guest.done}
        at_work = names & {each.member.name for each in heard if not each.silent and each.member.version >= 0}
        for name in sorted(at_work - self._at_work):
            self._say(f"{name} is at work")
        self._at_work = at_work

    def _patiently(self, call: Callable[[], T]) -> T:
        """What a call to Redis returns, which is waited for as long as the workers wait for it."""
        deadline = time.monotonic() + self._config.broker.timeout_s
        while True:
            try:
                return call()
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise

    def _unless_gone(self, call: Callable[[], None]) -> None:
        """Do this on Redis, which may go for good once a run has ended."""
        if self._redis_is_gone:
            return
        try:
            call()
        except BrokerError as error:
            self._redis_is_gone = True
            logger.warning("redis is taken to be gone: %s", error)

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
        name, log, restarts = guest.spec.name, guest.spec.log, guest.restarts
        lived_s = time.monotonic() - guest.started_at
        restarts.note(steady=is_steady(name, lived_s, lambda: self._patiently(self._roll.heard)))
        if restarts.exhausted:
            raise ArealError(f"{name} died {restarts.deaths} times in a row: {error}\n  its log: {log}") from error
        guest.start_at = time.monotonic() + restarts.delay_s
        self._say(f"{name} died ({error}); starting it again in {restarts.delay_s:g} s", "yellow")

    def _be_done(self, guest: Guest) -> None:
        """A worker is not started again, and nothing is left of it in Redis, if that is still there."""
        guest.done, guest.process, guest.start_at = True, None, None
        self._unless_gone(lambda: self._fleet.keep_orders({guest.spec.name: RUN}))
        self._unless_gone(lambda: self._roll.leave(guest.spec.name))

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
