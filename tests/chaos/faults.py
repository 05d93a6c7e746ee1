"""The kinds of faults: each strikes at random, or says that it cannot just now."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import redis

from .fleet import Fleet
from .journal import Entry, Struck
from .proxy import REPLY, REQUEST, Order
from .settings import BROKER, ROLES, WORKERS

FORGOTTEN_S = 0.15
WHILE_LOADING = 0.02


@dataclass(frozen=True, slots=True)
class Hit:
    """What a fault did, for how long (0: it is done)."""

    target: str
    detail: str = ""
    lasts_s: float = 0.0


Strike = Callable[[Fleet, Random], Hit | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault; `weight` is its share among random ones."""

    name: str
    weight: int
    strike: Strike


def worker_kill(fleet: Fleet, random: Random) -> Hit | None:
    return _kill(fleet, random, WORKERS)


def learner_kill(fleet: Fleet, random: Random) -> Hit | None:
    """Mostly one that takes steps, seldom one that loads: it would never come to anything else."""
    return _kill(fleet, random, ("learner",)) if fleet.step or random.random() < WHILE_LOADING else None


def _kill(fleet: Fleet, random: Random, roles: tuple[str, ...]) -> Hit | None:
    role = _any(fleet, random, roles)
    if role is None:
        return None
    member = fleet.members[role]
    member.kill()
    return Hit(member.name)


def worker_pause(fleet: Fleet, random: Random) -> Hit | None:
    """Stands still for longer than a lease, then wakes up and goes on as if nothing had been."""
    role = _any(fleet, random, WORKERS)
    if role is None:
        return None
    lasts_s = BROKER.lease_s + random.uniform(0.5, 2.0)
    member = fleet.members[role]
    member.pause(lasts_s)
    return Hit(member.name, lasts_s=lasts_s)


def worker_leave(fleet: Fleet, random: Random) -> Hit | None:
    """Is told to leave, and another takes its place when it has."""
    role = _any(fleet, random, WORKERS)
    if role is None or fleet.members[role].leaving:
        return None
    fleet.members[role].leaving = True
    return Hit(fleet.members[role].name, "told to leave, and replaced")


def learner_twin(fleet: Fleet, _: Random) -> Hit | None:
    """Stands still, is replaced, and wakes up beside the one that replaced it."""
    learner = fleet.members["learner"]
    if not learner.runs or not fleet.step or fleet.strays:
        return None
    fleet.replace_learner()
    return Hit(learner.name, "stopped, replaced, then woken up")


def learner_forgotten(fleet: Fleet, _: Random) -> Hit | None:
    """The next learner has hardly begun when Redis forgets that it has; and then it is replaced, as learner_twin does."""
    learner = fleet.members["learner"]
    if not learner.runs or not fleet.step or fleet.strays or fleet.upon_lead:
        return None

    def forget(led: Entry) -> None:
        if fleet.redis.state == "up" and fleet.members["learner"].runs:
            fleet.redis.kill(lost_s=time.time() - led.time + FORGOTTEN_S, down_s=0.1)
            fleet.replace_learner()

    learner.kill()
    fleet.upon_lead.append(forget)
    return Hit(learner.name, "killed; the beginning of the next is lost with Redis's memory, and it is replaced")


def redis_kill(fleet: Fleet, random: Random) -> Hit | None:
    return _kill_redis(fleet, random, lost_s=0.0)


def redis_rollback(fleet: Fleet, random: Random) -> Hit | None:
    """What was not flushed to the disk is lost: up to a second."""
    return _kill_redis(fleet, random, lost_s=random.uniform(0.3, 1.0))


def _kill_redis(fleet: Fleet, random: Random, *, lost_s: float) -> Hit | None:
    if fleet.redis.state == "down":
        return None
    down_s = random.uniform(0.1, 1.0)
    lost_bytes = fleet.redis.kill(lost_s=lost_s, down_s=down_s)
    lost = f"{lost_s:.2f} s of writes lost ({lost_bytes} bytes), " if lost_s else ""
    return Hit("redis", f"{lost}down for {down_s:.2f} s", down_s)


def redis_pause(fleet: Fleet, random: Random) -> Hit | None:
    if fleet.redis.state != "up":
        return None
    lasts_s = random.uniform(0.7, 1.3)
    fleet.redis.pause(lasts_s)
    return Hit("redis", lasts_s=lasts_s)


def client_kill(fleet: Fleet, random: Random) -> Hit | None:
    """Redis drops every connection of a role."""
    role = _any(fleet, random, ROLES)
    if role is None or fleet.redis.state != "up":
        return None
    with contextlib.suppress(redis.RedisError), fleet.direct() as client:
        ours = [found["id"] for found in client.client_list() if found["name"] == role]
        dropped = sum(int(client.client_kill_filter(_id=number)) for number in ours)
        if dropped:
            return Hit(fleet.members[role].name, f"{dropped} connections")
    return None


def cut_request(fleet: Fleet, random: Random) -> Hit | None:
    return _cut(fleet, random, REQUEST)


def cut_reply(fleet: Fleet, random: Random) -> Hit | None:
    """Redis has done what was asked, but half of its reply gets lost."""
    return _cut(fleet, random, REPLY)


def _cut(fleet: Fleet, random: Random, way: str) -> Hit | None:
    role = _any(fleet, random, ROLES)
    if role is None or fleet.redis.state != "up":
        return None
    fleet.proxy.order(Order(role, way=way))
    return Hit(fleet.members[role].name, f"in the middle of its next {way}")


def partition(fleet: Fleet, random: Random) -> Hit | None:
    """A role works on, but cannot reach Redis for a while, which may be longer than a lease."""
    role = _any(fleet, random, ROLES)
    if role is None:
        return None
    lasts_s = random.uniform(0.5, BROKER.lease_s + 1.5)
    fleet.proxy.order(Order(role, closed_s=lasts_s))
    return Hit(fleet.members[role].name, lasts_s=lasts_s)


KINDS = (
    Kind("worker_kill", 20, worker_kill),
    Kind("worker_pause", 12, worker_pause),
    Kind("worker_leave", 8, worker_leave),
    Kind("learner_kill", 14, learner_kill),
    Kind("learner_twin", 5, learner_twin),
    Kind("learner_forgotten", 2, learner_forgotten),
    Kind("redis_kill", 9, redis_kill),
    Kind("redis_rollback", 12, redis_rollback),
    Kind("redis_pause", 8, redis_pause),
    Kind("client_kill", 8, client_kill),
    Kind("cut_request", 6, cut_request),
    Kind("cut_reply", 6, cut_reply),
    Kind("partition", 7, partition),
)


def schedule(kinds: tuple[Kind, ...], count: int, random: Random) -> list[Kind]:
    """`count` kinds in random order, each at least once where there is room."""
    drawn = random.choices(kinds, [kind.weight for kind in kinds], k=max(0, count - len(kinds)))
    chosen = [*kinds, *drawn][:count]
    random.shuffle(chosen)
    return chosen


def strike(kind: Kind, number: int, fleet: Fleet, random: Random) -> Struck | None:
    """Let one strike and note it; None if it cannot now."""
    hit = kind.strike(fleet, random)
    if hit is None:
        return None
    struck = Struck(number, kind.name, hit.target, hit.detail, hit.lasts_s)
    fleet.journal.write(struck)
    return struck


def _any(fleet: Fleet, random: Random, roles: tuple[str, ...]) -> str | None:
    running = [role for role in roles if fleet.members[role].runs]
    return random.choice(running) if running else None
