"""The driver's hand on the number of rollout workers: what is wished, what the balance asks for, and who is there.

The configuration says how many a run starts with, also one that is resumed; after that the last wish does, or the balance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...broker.bulletin import RUN
from ...broker.errors import ConfigError
from ...broker.fleet import JOINED, OWN, Fleet, Roster, Wish
from ...broker.lane import Lane
from ...broker.rollcall import Heard, RollCall
from ..cluster.beside import Beside
from ..cluster.supervisor import Supervisor
from ..config import RunConfig
from ..records.tally import Record
from ..roles import RoleSpec
from .balance import Balance
from .offer import write_offer

LOOK_S = 1.0
FORGET_S = 300.0
"""A worker that was not heard for so long, and that is none of those placed here, is struck off the roll."""

LEFT_S = 10.0
"""How long workers from outside may take to leave when the run ends."""


@dataclass(frozen=True, slots=True)
class Broker:
    """What the scaler needs of a run's Redis."""

    fleet: Fleet
    roll: RollCall
    train: Lane


class Scaler:
    """Looked at in every tick of the driver. What a person should be told is gathered for `drain_events`."""

    def __init__(
        self,
        config: RunConfig,
        broker: Broker,
        supervisor: Supervisor,
        make: Callable[[int], RoleSpec],
        *,
        beside: Beside,
    ) -> None:
        """
        make: the specification of the worker with that number; the first of them are placed by the supervisor.
        beside: what each worker has Ray place besides.
        """
        self._config = config
        self._broker = broker
        self._supervisor = supervisor
        self._make = make
        self._beside = beside
        self._count = self._next = config.rollout.workers
        self._wish = self._trouble = self._given_up = ""
        self._seen: set[str] = set()
        self._known: set[str] = set()
        self._guests: set[str] = set()
        self._roll: list[Heard] = []
        self._looked_at = -LOOK_S
        autoscale = config.cluster.autoscale
        self._balance = None if autoscale is None else Balance(autoscale)
        self._events: list[tuple[str, str]] = []
        self._offer = b""
        try:
            self._offer = write_offer(config)
        except ConfigError as error:
            self._events.append(("warning", f"workers from outside cannot join: {error}"))

    def begin(self) -> None:
        """Forget what an earlier driver has answered and placed, and lay out what workers from outside need.

        A wish that waits for an answer stays: the first tick gives it.
        """
        fleet, own = self._broker.fleet, self._own()
        wish, roster = fleet.wished(), fleet.roster()
        if wish is not None and roster is not None and roster.wish == wish.id:
            self._seen.add(wish.id)
            fleet.forget_wish(wish)
        former = [heard.member.name for heard in self._broker.roll.heard() if OWN.fullmatch(heard.member.name)]
        self._broker.roll.leave(*{*former} - own)
        fleet.keep_orders(dict.fromkeys(own, RUN))
        fleet.keep_offer(self._offer)

    def add(self, record: Record) -> None:
        """Take in a record of the run."""
        if self._balance is not None:
            self._balance.add(record)

    def tick(self, *, ending: bool) -> None:
        """Look after the number of workers once; while the run is ending, only after those that leave."""
        self._hear_wish(ending)
        if self._supervisor.given_up != self._given_up:
            self._given_up = self._trouble = self._supervisor.given_up
            self._count = max(1, min(self._count, len(self._supervisor.workers())))
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._look(ending)
            self._looked_at = time.monotonic()
        if not ending:
            self._apply()
        self._say()

    def drain_events(self) -> list[tuple[str, str]]:
        """(level, text) of what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def await_guests(self) -> None:
        """Let workers from outside leave a run that has ended, as its Redis may go with it."""
        deadline = time.monotonic() + LEFT_S
        while time.monotonic() < deadline and any(_works(heard) for heard in _guests(self._broker.roll.heard())):
            time.sleep(0.1)

    # What is wanted

    def _hear_wish(self, ending: bool) -> None:
        wish = self._broker.fleet.wished()
        if wish is None or wish.id in self._seen:  # also one that a Redis that came back older knows again
            return
        self._seen.add(wish.id)
        self._wish, self._trouble = wish.id, self._refusal(wish, ending)
        if not self._trouble:
            self._change(wish.count, "areal scale")

    def _refusal(self, wish: Wish, ending: bool) -> str:
        if ending:
            return "the run is ending"
        if self._balance is not None:
            return "cluster.autoscale is on, and changes the number by itself: start the run without it"
        more = wish.count - len(self._supervisor.workers())
        lacks = self._supervisor.room(more, self._beside) if more > 0 else ""
        return f"there is no room for {more} more: {lacks}" if lacks else ""

    def _change(self, count: int, why: str) -> None:
        if count != self._count:
            self._events.append(("info", f"rollout workers: {self._count} → {count} ({why})"))
        self._count = count

    def _follow_balance(self, balance: Balance) -> None:
        """Change the number where the balance asks for it, as far as there is room."""
        at_work = {heard.member.name for heard in self._roll if _works(heard)}
        workers = self._supervisor.workers()
        steady = at_work.issuperset(workers) and len(workers) == self._count
        count = balance.wanted(self._count, steady=steady, steps_ready=self._steps_ready(), now=time.monotonic())
        lacks = self._supervisor.room(count - len(workers), self._beside) if count > len(workers) else ""
        if not lacks:
            self._change(count, "cluster.autoscale")

    def _steps_ready(self) -> float:
        """How many steps' groups lie ready, about: what is outstanding less what has not been completed."""
        batch = self._config.learner.groups_per_step
        bound = (self._config.staleness.max + 1) * batch
        return max(0, bound - self._broker.train.depth().prompts) / batch

    # Who is there

    def _apply(self) -> None:
        """Place those that are missing, and let the newest leave that are too many."""
        workers = self._supervisor.workers()
        for _ in range(self._count - len(workers)):
            self._supervisor.add(self._make(self._next))
            self._next += 1
        for name in workers[self._count :]:
            self._supervisor.let_go(name)

    def _say(self) -> None:
        """Say what is wanted of each worker, and which there are; those that have left are off the roll."""
        fleet, workers, leaving = self._broker.fleet, self._supervisor.workers(), self._supervisor.leaving()
        gone = self._known - {*workers, *leaving}
        fleet.keep_orders(dict.fromkeys([*gone, *workers], RUN) | leaving)
        fleet.keep_roster(Roster(self._count, tuple(workers), tuple(leaving), self._wish, self._trouble))
        if gone:
            self._broker.roll.leave(*gone)
        self._known = {*workers, *leaving}

    def _own(self) -> set[str]:
        """The workers that were placed here, and have not left."""
        return {*self._supervisor.workers(), *self._supervisor.leaving()}

    def _look(self, ending: bool) -> None:
        """Look at the roll-call, and at what changes slowly."""
        self._broker.fleet.keep_offer(self._offer)
        self._roll = self._broker.roll.heard()
        lost = {heard.member.name for heard in self._roll if _is_worker(heard) and heard.ago_s > FORGET_S}
        self._broker.roll.leave(*lost - self._own())  # also if there are none: who has left held leases then, perhaps
        guests = {heard.member.name: heard.member.host for heard in _guests(self._roll)}
        self._events += [
            ("info", f"{name} has joined from {guests[name]}") for name in sorted(guests.keys() - self._guests)
        ]
        self._events += [("info", f"{name} has left") for name in sorted(self._guests - guests.keys())]
        self._guests = set(guests)
        if self._balance is not None and not ending:
            self._follow_balance(self._balance)


def _guests(roll: list[Heard]) -> list[Heard]:
    """The workers from outside."""
    return [heard for heard in roll if JOINED.fullmatch(heard.member.name)]


def _is_worker(heard: Heard) -> bool:
    return bool(OWN.fullmatch(heard.member.name) or JOINED.fullmatch(heard.member.name))


def _works(heard: Heard) -> bool:
    """Whether a worker is there and has weights."""
    return not heard.silent and heard.member.version >= 0
