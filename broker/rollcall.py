"""Who is at work for a run: every role says so itself, again and again, and one that stops saying so is silent."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from . import scripts
from .client import Client
from .errors import BrokerError
from .keys import CONSUMERS, LANES, Keys, LaneKeys

logger = logging.getLogger(__name__)

MAX_MEMBER_BYTES = 4096


@dataclass(slots=True)
class Activity:
    """What a role last did: the version it is on, -1 before the first, and when, in Unix seconds."""

    version: int = -1
    at: float = field(default_factory=time.time)

    def mark(self, version: int) -> None:
        """Something was done, on this version."""
        self.version, self.at = version, time.time()


@dataclass(frozen=True, slots=True)
class Member:
    """A role as it described itself. `started_at` and `active_at` are Unix seconds by its own clock."""

    name: str
    role: str
    host: str
    pid: int
    started_at: float
    active_at: float
    version: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A member, and how long ago it was last heard, in seconds by the server's clock."""

    member: Member
    ago_s: float
    silent: bool


class RollCall:
    """The members of a run. One not heard for `silent_after_s` is silent, as its leases are about to move."""

    def __init__(self, client: Client, run: str, *, silent_after_s: float) -> None:
        self._client: Any = client
        self._key = Keys(run).roll
        self._silent_after_s = silent_after_s
        self._prompts = [LaneKeys(run, lane).prompts for lane in LANES]
        self._beat = client.register_script(scripts.BEAT)
        self._strike = client.register_script(scripts.STRIKE)

    def beat(self, member: Member) -> None:
        """Say that this member is there."""
        self._beat(keys=[self._key], args=[member.name, json.dumps(asdict(member))])

    def leave(self, *names: str) -> None:
        """Strike members that have ended well, or that nobody waits for, off the roll, and who is not on it out of the lanes.

        Of one that holds leases yet, which others will take over, the lanes are rid by the next call after that.
        """
        self._strike(keys=[self._key, *self._prompts], args=[CONSUMERS, *names])

    def heard(self) -> list[Heard]:
        """The members by name, the silent ones too. What is no member's description is left out."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hgetall(self._key)
            (seconds, microseconds), found = pipe.execute()
        now_ms = 1000 * seconds + microseconds // 1000
        heard = (self._heard(value, now_ms) for value in found.values())
        return sorted((each for each in heard if each is not None), key=lambda each: each.member.name)

    def _heard(self, value: bytes, now_ms: int) -> Heard | None:
        try:
            at_ms, _, described = value[:MAX_MEMBER_BYTES].partition(b" ")
            ago_s = max(0, now_ms - int(at_ms)) / 1000
            member = _member(json.loads(described))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            logger.warning("what is no member of the roll was left out: %.200r", value)
            return None
        return Heard(member, ago_s, silent=ago_s > self._silent_after_s)


class Presence:
    """Answers the roll-call for a role while it is at work, from a thread; a role that ended well is struck off."""

    def __init__(self, roll: RollCall, *, name: str, role: str, every_s: float) -> None:
        self.activity = Activity()
        self._roll = roll
        self._name = name
        self._role = role
        self._every_s = every_s
        self._started_at = time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_over, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=5.0)
        if kind is None:
            with contextlib.suppress(BrokerError):
                self._roll.leave(self._name)

    def _beat_until_over(self) -> None:
        while not self._over.is_set():
            try:
                self._roll.beat(self._member())
            except Exception as error:  # whoever is silent is seen to be; nothing else depends on it
                logger.warning("the roll-call was missed: %s", error)
            self._over.wait(self._every_s)

    def _member(self) -> Member:
        activity, host = self.activity, socket.gethostname()
        return Member(self._name, self._role, host, os.getpid(), self._started_at, activity.at, activity.version)


def _member(told: dict[str, Any]) -> Member:
    return Member(
        name=str(told["name"]),
        role=str(told["role"]),
        host=str(told["host"]),
        pid=int(told["pid"]),
        started_at=float(told["started_at"]),
        active_at=float(told["active_at"]),
        version=int(told["version"]),
    )
