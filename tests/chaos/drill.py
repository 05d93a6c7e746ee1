"""A drill: starts the fleet, lets faults strike while it works, lets it finish, and hands over what was seen."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import redis

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import connect
from areal.broker.keys import Keys

from . import settings
from .faults import Kind, schedule, strike
from .fleet import Fleet, Overdue
from .journal import Entry, Struck
from .ledger import DeadLetter, Remains

READY_S = 300.0
SETTLE_S = 180.0
DRAINED_S = 90.0
FINISHED_S = 180.0
CALM_STEPS = 5
BURST = 0.25
"""Share of the faults that follow on the heels of the one before."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What a drill leaves behind to be judged."""

    entries: list[Entry] = field(default_factory=list)
    remains: Remains | None = None
    strikes: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    wall_s: float = 0.0


def drill(directory: Path, kinds: Sequence[Kind], *, faults: int, seed: int, gap_s: float, say: Say) -> Outcome:
    """Run one to its end; what goes wrong on the way is among the surprises of its outcome."""
    fleet = Fleet(directory, seed)
    outcome = Outcome(surprises=fleet.surprises)
    began = time.monotonic()
    try:
        fleet.start()
        fleet.until("the first steps", lambda: fleet.step >= CALM_STEPS, READY_S)
        say(f"{_clock(began)}  all at work: step {fleet.step}")
        _strike_all(fleet, outcome, schedule(tuple(kinds), faults, Random(seed)), Random(seed + 1), gap_s, began, say)
        _finish(fleet, began, say)
    except (Overdue, redis.RedisError) as error:
        outcome.surprises.append(f"{type(error).__name__}: {error}")
        say(f"{_clock(began)}  given up: {error}")
    finally:
        try:
            fleet.tick()
            outcome.remains = _remains(fleet)
        except redis.RedisError as error:
            outcome.surprises.append(f"what lies in Redis could not be read: {error}")
        finally:
            fleet.stop()
            fleet.reader.poll()
            outcome.entries = sorted(fleet.reader.entries, key=lambda entry: entry.time)
            outcome.wall_s = time.monotonic() - began
    return outcome


def _strike_all(
    fleet: Fleet, outcome: Outcome, kinds: list[Kind], random: Random, gap_s: float, began: float, say: Say
) -> None:
    total = len(kinds)
    due = time.monotonic()
    while kinds:
        fleet.watch()
        if time.monotonic() >= due:
            number = total - len(kinds) + 1
            struck = next((s for kind in kinds if (s := strike(kind, number, fleet, random))), None)
            if struck is not None:
                kinds.remove(next(kind for kind in kinds if kind.name == struck.kind))
                outcome.strikes[struck.kind] += 1
                say(_line(struck, total, began, fleet))
                due = time.monotonic() + _gap(random, gap_s)


def _gap(random: Random, gap_s: float) -> float:
    """Seconds to the next fault: often almost none, otherwise as of events that know nothing of each other."""
    return random.uniform(0.0, 0.3) if random.random() < BURST else min(random.expovariate(1 / gap_s), 4 * gap_s)


def _finish(fleet: Fleet, began: float, say: Say) -> None:
    """Let it calm down, drain it, start it again, and let it train on all that is outstanding."""
    fleet.until("everything to be at work again", lambda: fleet.quiet and fleet.step > 0, SETTLE_S)
    calm = fleet.step
    fleet.until(f"{CALM_STEPS} steps in peace", lambda: fleet.step >= calm + CALM_STEPS, SETTLE_S)
    with connect(fleet.redis.url, timeout_s=5.0) as client:
        bulletin = Bulletin(client, settings.RUN)
        fleet.ending = True
        bulletin.keep_order(DRAIN)
        fleet.until("all roles to drain", lambda: all(member.done for member in fleet.members.values()), DRAINED_S)
        remains = _remains(fleet)
        left = len({*remains.prompts, *remains.groups})
        say(f"{_clock(began)}  drained at step {fleet.step}, {left} outstanding; now they are trained on")
        bulletin.keep_order(RUN)
        fleet.release(fleet.step + max(1, -(-left // settings.GROUPS_PER_STEP)))
        fleet.ending = True
        fleet.until("the last step", lambda: fleet.members["learner"].done, FINISHED_S)
        bulletin.keep_order(DRAIN)
        fleet.until("the workers to end", lambda: all(member.done for member in fleet.members.values()), DRAINED_S)


def _remains(fleet: Fleet) -> Remains:
    """What lies in Redis, read as it is."""
    keys = Keys(settings.RUN)
    with fleet.direct() as client:
        streams: dict[str, Any] = {
            name: client.xrange(keys.of("train", name)) for name in ("prompts", "groups", "dead")
        }
        issued: Any = client.get(keys.of("train", "issued"))
    return Remains(
        issued=int(issued or 0),
        prompts=tuple(int(fields[b"id"]) for _, fields in streams["prompts"]),
        groups=tuple(int(fields[b"id"]) for _, fields in streams["groups"]),
        dead=tuple(
            DeadLetter(int(fields[b"id"]), int(entry.partition(b"-")[0]) / 1000, fields[b"cause"].decode())
            for entry, fields in streams["dead"]
        ),
    )


def _line(struck: Struck, total: int, began: float, fleet: Fleet) -> str:
    lasts = f"for {struck.lasts_s:.1f} s" if struck.lasts_s and not struck.detail else struck.detail
    step = f"step {fleet.step}" if fleet.step else "learner loading"
    return f"{_clock(began)}  {struck.number:3}/{total}  {struck.kind:17} {struck.target:13} {step:16} {lasts}"


def _clock(began: float) -> str:
    return f"{time.monotonic() - began:6.1f} s"
