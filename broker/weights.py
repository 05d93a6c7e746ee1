"""The weights on their way from the learner to the engines: versions that only rise, whole or not there at all.

A version is a folder of safetensors, or tensors that the learner holds. A transport makes it fetchable; then, and not
before, a stream announces it.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from . import scripts
from .chunks import RedisChunks
from .client import LONGEST_BLOCK_S, Client
from .config import BrokerConfig
from .direct import Direct, Memory
from .errors import BrokerError
from .fence import fenced, require_lead
from .keys import Keys
from .transport import NAME, SharedDirectory, Source, Transport

logger = logging.getLogger(__name__)

MAX_SEEN = 100
"""The newest announcements that are looked at; there are no more than are kept, unless someone else writes them."""

NUMBER = re.compile(rb"[0-9]{1,9}")
DIGEST = re.compile(rb"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Published:
    """One version of the weights, as announced: not yet known to be there, nor whole."""

    version: int
    name: str
    digest: int

    @property
    def is_odd(self) -> bool:
        """Whether it bears a version but was not announced as this store would."""
        return NAME.fullmatch(self.name) is None or self.digest < 0


class WeightStore:
    """Announces versions and finds the newest; an announcement carries a folder's name, and never a path."""

    def __init__(self, client: Client, run: str, transport: Transport, *, kept: int = 3) -> None:
        keys = Keys(run)
        self._client: Any = client
        self._run = run
        self._stream = keys.weights
        self._epoch_key = keys.epoch
        self._transport = transport
        self._kept = kept
        self._publish = client.register_script(scripts.PUBLISH)
        self._odd: set[str] = set()

    # The learner's side

    def publish(self, version: int, given: Any, *, epoch: int) -> Published:
        """Give the transport what it takes, a Write or tensors, and announce it once it can be fetched.

        The oldest beyond `kept` are deleted. Raises Fenced for a learner whose epoch is over, and BrokerError for a version
        that is not above the last one.
        """
        name = f"{version:08d}-{epoch}"
        if any(published is not None and published.name == name for _, published in self._announced()):
            raise BrokerError(f"version {version} cannot be published: it has been already")
        self._forget_old(epoch)  # first, as what a learner left half-way may take the room that is needed
        published = Published(version, name, self._put(name, given, epoch))
        try:
            self._announce(published, epoch)
        finally:
            self._forget_old(epoch)
        return published

    def _put(self, name: str, given: Any, epoch: int) -> int:
        """The digest of what the transport has taken. Raises Fenced where a later learner may have swept it away."""
        try:
            return self._transport.put(name, given)
        except Exception:
            require_lead(self._client, self._run, epoch)
            raise

    def is_lost(self, published: Published) -> bool:
        """Whether neither the version nor a later one is announced, as after a Redis that came back a second older."""
        newest = self._newest()[1]
        return newest is None or newest.version < published.version

    def restore(self, published: Published, *, epoch: int) -> Published:
        """Announce again, and make fetchable again, the version published last. Raises Fenced, or BrokerError."""
        self._transport.restore(published.name, published.digest)
        self._announce(published, epoch)
        return published

    def _announce(self, published: Published, epoch: int) -> None:
        version, name, digest = published.version, published.name, published.digest
        try:
            fenced(self._publish, [self._epoch_key, self._stream], [epoch, version, name, digest, self._kept])
        except redis.ResponseError as error:
            raise BrokerError(f"version {version} cannot be published: {error} is not below it") from error

    def _forget_old(self, epoch: int) -> None:
        """Delete what is not announced, but nothing of a later epoch, whose announcement may be to come."""
        announced = {
            fields.get(b"name", b"").decode(errors="replace") for _, fields in self._client.xrange(self._stream)
        }
        self._transport.forget(announced, epoch=epoch)

    # Both sides

    def latest(self) -> Published | None:
        """The announcement of the highest version, even an odd one; or None before the first."""
        return _highest([published for _, published in self._announced() if published is not None])

    # The worker's side

    def wait(self, after: int, *, timeout_s: float) -> Published | None:
        """The newest version above `after`, waited for at most `timeout_s` (and LONGEST_BLOCK_S); else None.

        What is announced in an odd way is passed over.
        """
        entry, newest = self._newest()
        if newest is None or newest.version <= after:
            block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S)))
            self._client.xread({self._stream: entry}, count=1, block=block_ms)
            newest = self._newest()[1]
        return newest if newest is not None and newest.version > after else None

    def fetch(self, published: Published) -> Source:
        """The folder of a version, verified, which stays until the next is fetched; or where its tensors are.

        Raises BrokerError if it is gone, damaged or odd.
        """
        if published.is_odd:
            raise BrokerError(f"version {published.version} was announced in an odd way: {published}")
        return self._transport.fetch(published.name, published.digest)

    def _newest(self) -> tuple[str, Published | None]:
        """The last announcement's entry ("0" before the first), and the highest version that was not announced oddly."""
        announced = self._announced()
        self._warn_of_odd([entry for entry, published in announced if published is None or published.is_odd])
        entry = announced[0][0] if announced else "0"
        return entry, _highest([published for _, published in announced if published and not published.is_odd])

    def _warn_of_odd(self, entries: list[str]) -> None:
        for entry in set(entries) - self._odd:
            logger.warning("passing over weights announced in an odd way, in entry %s of %s", entry, self._stream)
        self._odd = set(entries)

    def _announced(self) -> list[tuple[str, Published | None]]:
        """Entries of the stream, newest first, and what they announce: None without a version."""
        found = self._client.xrevrange(self._stream, count=MAX_SEEN)
        return [(entry.decode(), _published(fields)) for entry, fields in found]


def open_store(
    client: Client, run: str, config: BrokerConfig, directory: Path, memory: Memory | None = None
) -> WeightStore:
    """A run's store with the transport that its configuration names.

    `directory` is where folders are shared; `memory` is the learner's, where it hands out the weights itself.
    """
    transport: Transport
    match config.weights:
        case "direct":
            transport = Direct(client, run, memory)
        case "redis":
            transport = RedisChunks(client, run)
        case _:
            transport = SharedDirectory(directory)
    return WeightStore(client, run, transport, kept=config.weights_kept)


def _published(fields: dict[bytes, bytes]) -> Published | None:
    version, digest = fields.get(b"version", b""), fields.get(b"digest", b"")
    if not NUMBER.fullmatch(version):
        return None
    name = fields.get(b"name", b"").decode(errors="replace")
    return Published(int(version), name, int(digest) if DIGEST.fullmatch(digest) else -1)


def _highest(announced: list[Published]) -> Published | None:
    return max(announced, key=lambda published: published.version, default=None)
