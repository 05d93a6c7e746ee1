"""The rollout workers of a run, as they come and go: how many are wanted, which of them are there, and which are to leave.

    areal scale ──wish──▶ the driver ──places, or tells to leave──▶ workers of the run
                  ◀─fleet─┘         └──offer──▶ areal join ──starts, or tells to leave──▶ workers from outside

Whoever started a worker says again and again what it is to do, as Redis may come back a second older.
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from .bulletin import RUN
from .client import Client
from .errors import CodecError
from .keys import Keys

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WORKERS = 10_000
MAX_BYTES = 2**20
"""Of each of the things said here."""

ORDER_S = 600
"""An order to a worker is forgotten so long after it was last given: the worker is gone, and whoever gave it too."""

WISH_S = 60
"""A wish that is no longer repeated is forgotten after so long: nobody waits for the answer."""

OWN = re.compile(r"rollout-[0-9]{1,9}")
"""The name of a worker that a run's driver has started."""

JOINED = re.compile(r"rollout-j[0-9a-f]{8}-[0-9]{1,5}")
"""The name of a worker from outside, which none of the run's own bears."""


@dataclass(frozen=True, slots=True)
class Wish:
    """That the run have so many workers of its own."""

    count: int
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Roster:
    """The run's own workers as its driver sees them: `count` are wanted, some may yet start, some are about to leave.

    `wish` is the id of the last wish that was looked at, and `trouble` says why it, or a later decision, was not followed.
    """

    count: int
    workers: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    wish: str = ""
    trouble: str = ""


class Fleet:
    """What is said about the workers of a run."""

    def __init__(self, client: Client, run: str) -> None:
        self._client: Any = client
        self._keys = Keys(run)

    def wish(self, wish: Wish) -> None:
        """Ask the driver for so many workers; said again until it answers."""
        self._client.set(self._keys.wish, json.dumps(asdict(wish)), ex=WISH_S)

    def wished(self) -> Wish | None:
        """What was asked for last; None if nothing was of late, or nothing that can be read."""
        return self._read(self._keys.wish, _wish)

    def forget_wish(self, wish: Wish | None = None) -> None:
        """Withdraw a wish, or whatever was asked for."""
        if wish is None or self.wished() == wish:
            self._client.delete(self._keys.wish)

    def keep_roster(self, roster: Roster) -> None:
        """Say which workers there are."""
        self._keep(self._keys.fleet, json.dumps(asdict(roster)).encode())

    def roster(self) -> Roster | None:
        """Which workers there are, by their driver; None while it has not said so."""
        return self._read(self._keys.fleet, _roster)

    def keep_orders(self, words: Mapping[str, str]) -> None:
        """See that each of these workers is told its word: RUN, LEAVE, or DRAIN to one that is to leave at once.

        Said again and again, as an order that is not is forgotten after ORDER_S.
        """
        if not words:
            return
        keys = [self._keys.leave(worker) for worker in words]
        for key, word, said in zip(keys, words.values(), self._client.mget(keys), strict=True):
            if word != RUN:
                self._client.set(key, word, ex=ORDER_S)
            elif said is not None:
                self._client.delete(key)

    def keep_offer(self, offer: bytes) -> None:
        """Lay out what those who join from outside need; at most MAX_BYTES."""
        self._keep(self._keys.offer, offer)

    def offer(self) -> bytes | None:
        """What was laid out, or None. Raises CodecError where it is too long to be that."""
        return self._get(self._keys.offer)

    def _keep(self, key: str, said: bytes) -> None:
        if self._client.get(key) != said:
            self._client.set(key, said)

    def _get(self, key: str) -> bytes | None:
        said: bytes = self._client.getrange(key, 0, MAX_BYTES)
        if len(said) > MAX_BYTES:
            raise CodecError(f"{key} holds more than {MAX_BYTES} bytes")
        return said or None

    def _read(self, key: str, read: Callable[[Any], T]) -> T | None:
        try:
            said = self._get(key)
            return None if said is None else read(json.loads(said))
        except (CodecError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            logger.warning("what %s says is passed over: %s", key, error)
            return None


def _wish(said: Any) -> Wish:
    wish = Wish(_count(said["count"]), _text(said["id"], 64))
    if wish.count < 1:
        raise ValueError("a run has one worker or more")
    return wish


def _roster(said: Any) -> Roster:
    workers, leaving = _names(said["workers"]), _names(said["leaving"])
    return Roster(_count(said["count"]), workers, leaving, _text(said["wish"], 64), _text(said["trouble"], 4096))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_WORKERS:
        raise ValueError(f"{value!r:.100} workers")
    return value


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{value!r:.100} where a text of {longest} characters at most was wanted")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_WORKERS:
        raise ValueError(f"{value!r:.100} where names were wanted")
    return tuple(_text(name, 100) for name in value)
