"""`areal scale`: how many rollout workers a run is to have from now on."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from ...broker.bulletin import DRAIN, Bulletin
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable, ConfigError, DeadlineExceeded
from ...broker.fleet import MAX_WORKERS, Fleet, Roster, Wish
from ...broker.helm import STARTING, Driving
from ..control.locate import Located
from ..control.look import how_it_stands
from ..control.watched import Watched
from ..roles import LEARNER, ROLLOUT
from ..screen import Screen, plural, span

LOOK_S = 0.2
ANSWERED_S = 20.0
"""How long a driver that has started may take to see a wish; it looks several times a second."""


def read_sizes(sizes: Sequence[str]) -> int:
    """The number of rollout workers in `rollout=N`. Raises ConfigError."""
    counts = dict(_read_size(size) for size in sizes)
    if len(sizes) != 1 or ROLLOUT not in counts:
        raise ConfigError(f"one size is wanted, as in {ROLLOUT}=4, not {' '.join(sizes)}")
    return counts[ROLLOUT]


def _read_size(size: str) -> tuple[str, int]:
    role, _, text = size.partition("=")
    if role == LEARNER:
        raise ConfigError(
            "the ranks of the learner stay as they are while a run goes on: stop it, and start it with learner.ranks=N"
        )
    if role != ROLLOUT:
        raise ConfigError(f"{size!r} is of no role that can be scaled; wanted: {ROLLOUT}=N")
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_WORKERS:
        raise ConfigError(f"{size!r}: a whole number from 1 to {MAX_WORKERS} is wanted, as in {ROLLOUT}=4")
    return role, int(text)


def scale(run: Located, count: int, *, wait: bool, timeout_s: float) -> int:
    """Have the run's driver place or release workers until there are `count`; returns the exit code. Raises ArealError.

    With `wait` it returns once all of them are at work and no other is left. A driver that is still starting is waited for in
    any case. Both together take `timeout_s` at most.
    """
    if not run.live:
        raise ArealError(f"{run.name} is not under way: start it with `areal run`, and rollout.workers={count}")
    petition = Petition(run, Wish(count), timeout_s=timeout_s)
    roster = petition.await_answer()
    if wait:
        petition.await_workers(roster)
    else:
        Screen().put(f"{run.name} is to have {plural(count, 'rollout worker')}")
    return 0


class Petition:
    """A wish, and the wait until the run's driver has seen it, and then has come to it."""

    def __init__(self, run: Located, wish: Wish, *, timeout_s: float) -> None:
        self._run = run
        self._wish = wish
        self._wanted = plural(wish.count, "rollout worker")
        self._timeout_s = timeout_s
        self._fleet = Fleet(run.client, run.key)
        self._watched = Watched(run.name, run.key, run.directory, run.client)
        self._began = time.monotonic()
        self._answered_by = ""
        self._told = ""

    def await_answer(self) -> Roster:
        """What the driver says once it has seen the wish, which is withdrawn if it does not. Raises ArealError."""
        try:
            return self._answer()
        except BaseException as error:
            with suppress(BrokerError):
                self._fleet.forget_wish(self._wish)
            if isinstance(error, BrokerUnavailable):  # a Redis of the run's own ends with its driver
                self._driving()
            raise

    def await_workers(self, roster: Roster) -> None:
        """Return once those that are wanted are at work, and no other is left. Raises ArealError."""
        while not _is_reached(self._run, roster, self._wish.count):
            text = _progress(self._run, roster)
            self._tell(text)
            if self._waited_s() > self._timeout_s:
                raise DeadlineExceeded(
                    f"{self._run.name} has not come to {self._wanted} within {self._timeout_s:g} s ({text}); it goes on "
                    f"towards that. `areal runs {self._run.name}` shows who is at work"
                )
            time.sleep(LOOK_S)
            self._require_same_driver()
            roster = self._fleet.roster() or roster
            self._require_followed(roster)
        Screen().put(f"{self._run.name} has {self._wanted} at work, after {span(self._waited_s())}")

    def _answer(self) -> Roster:
        deadline = time.monotonic() + ANSWERED_S
        while True:
            driving = self._driving()
            if driving is None or driving.state == STARTING:
                deadline = time.monotonic() + ANSWERED_S
            else:
                self._require_run_on()
            self._fleet.wish(self._wish)
            roster = self._fleet.roster()
            if roster is not None and roster.wish == self._wish.id:
                self._answered_by = driving.invocation if driving is not None else ""
                self._require_followed(roster)
                return roster
            self._require_patience(deadline)
            if driving is None or driving.state == STARTING:
                self._tell(f"the driver of {self._run.name} is starting, and answers then")
            time.sleep(LOOK_S)

    def _require_patience(self, deadline: float) -> None:
        """Raises ArealError past the deadline by which the driver should have answered, or that of the command."""
        if time.monotonic() > deadline:
            raise ArealError(
                f"the driver of {self._run.name} has not answered within {ANSWERED_S:g} s: `areal logs {self._run.name}` may "
                "tell why"
            )
        if self._waited_s() > self._timeout_s:
            raise DeadlineExceeded(
                f"the driver of {self._run.name} has not started within {self._timeout_s:g} s (--timeout), and the wish for "
                f"{self._wanted} is withdrawn"
            )

    def _driving(self) -> Driving | None:
        """What the driver says; None if another one is about to take its place. Raises ArealError if there is none."""
        look = self._watched.look()
        if look.driving is not None and look.alive and not look.driving.ended:
            return look.driving
        if look.held or (look.gone and look.driving is not None and look.driving.guard is not None):
            return None
        raise ArealError(
            f"{self._run.name} is not under way: {how_it_stands(look)}. Start it with rollout.workers={self._wish.count}"
        )

    def _require_same_driver(self) -> None:
        """Raises ArealError if the driver that has answered is gone: the next one knows nothing of the wish."""
        driving = self._driving()
        if driving is None or driving.invocation != self._answered_by:
            raise ArealError(
                f"the driver of {self._run.name} that was to come to {self._wanted} is gone, and the next begins with the "
                "rollout.workers of its configuration: scale it again"
            )

    def _require_run_on(self) -> None:
        if Bulletin(self._run.client, self._run.key).ordered() == DRAIN:
            raise ArealError(f"{self._run.name} is ending: start it again with rollout.workers={self._wish.count}")

    def _require_followed(self, roster: Roster) -> None:
        """Raises ArealError if the driver could not do what was wished, or somebody has wished for something else meanwhile."""
        has = plural(roster.count, "rollout worker")
        if roster.wish != self._wish.id:
            raise ArealError(f"somebody else has scaled {self._run.name} meanwhile, to {has}")
        if roster.trouble:
            raise ArealError(f"{self._run.name} stays at {has}, and {self._wish.count} were wanted: {roster.trouble}")

    def _waited_s(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, text: str) -> None:
        if text != self._told:
            Screen().put(f"{span(self._waited_s()):>7}  ", text)
            sys.stdout.flush()
            self._told = text


def _is_reached(run: Located, roster: Roster, count: int) -> bool:
    at_work = _at_work(run)
    return len(roster.workers) == count and not roster.leaving and at_work.issuperset(roster.workers)


def _at_work(run: Located) -> set[str]:
    return {heard.member.name for heard in run.roll() if not heard.silent and heard.member.version >= 0}


def _progress(run: Located, roster: Roster) -> str:
    at_work = _at_work(run)
    said = [f"{len(at_work.intersection(roster.workers))} of {plural(roster.count, 'rollout worker')} at work"]
    waiting = [name for name in roster.workers if name not in at_work]
    if waiting:
        said.append(f"starting {', '.join(waiting)}")
    if roster.leaving:
        said.append(f"leaving {', '.join(roster.leaving)}")
    return "; ".join(said)
