"""`areal scale`: how many rollout workers a run is to have from now on."""

import sys
import time
from collections.abc import Sequence

from ...broker.bulletin import DRAIN, Bulletin
from ...broker.errors import ArealError, ConfigError, DeadlineExceeded
from ...broker.fleet import MAX_WORKERS, Fleet, Roster, Wish
from ..control.locate import Located
from ..roles import LEARNER, ROLLOUT
from ..screen import Screen, plural, span

LOOK_S = 0.2
ANSWERED_S = 20.0
"""How long the run's driver may take to see a wish; it looks several times a second."""


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

    With `wait` it returns once all of them are at work and no other is left, or else after `timeout_s`.
    """
    if not run.live:
        raise ArealError(f"{run.name} is not under way: start it with `areal run`, and rollout.workers={count}")
    if Bulletin(run.client, run.key).ordered() == DRAIN:
        raise ArealError(f"{run.name} is ending, or has ended: start it again with rollout.workers={count}")
    fleet, wish = Fleet(run.client, run.key), Wish(count)
    began = time.monotonic()
    roster = _answered(run, fleet, wish)
    screen = Screen()
    if not wait:
        screen.put(f"{run.name} is to have {plural(count, 'rollout worker')}")
        return 0
    told = ""
    while not _is_reached(run, roster, count):
        text = _progress(run, roster)
        if text != told:
            screen.put(f"{span(time.monotonic() - began):>7}  ", text)
            sys.stdout.flush()
            told = text
        if time.monotonic() - began > timeout_s:
            raise DeadlineExceeded(
                f"{run.name} has not come to {plural(count, 'rollout worker')} within {timeout_s:g} s ({text}); it goes on "
                f"towards that. `areal runs {run.name}` shows who is at work"
            )
        time.sleep(LOOK_S)
        roster = fleet.roster() or roster
        _require_followed(run, roster, wish)
    screen.put(f"{run.name} has {plural(count, 'rollout worker')} at work, after {span(time.monotonic() - began)}")
    return 0


def _answered(run: Located, fleet: Fleet, wish: Wish) -> Roster:
    """What the driver says once it has seen the wish. Raises ArealError."""
    deadline = time.monotonic() + ANSWERED_S
    while time.monotonic() < deadline:
        fleet.wish(wish)
        roster = fleet.roster()
        if roster is not None and roster.wish == wish.id:
            _require_followed(run, roster, wish)
            return roster
        time.sleep(LOOK_S)
    fleet.forget_wish(wish)
    raise ArealError(
        f"{run.name} is not under way: no `areal run` has answered within {ANSWERED_S:g} s. Start it with "
        f"rollout.workers={wish.count}"
    )


def _require_followed(run: Located, roster: Roster, wish: Wish) -> None:
    """Raises ArealError if the driver could not do what was wished, or somebody has wished for something else meanwhile."""
    if roster.wish != wish.id:
        raise ArealError(f"somebody else has scaled {run.name} meanwhile, to {plural(roster.count, 'rollout worker')}")
    if roster.trouble:
        raise ArealError(
            f"{run.name} stays at {plural(roster.count, 'rollout worker')}, and {wish.count} were wanted: {roster.trouble}"
        )


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
