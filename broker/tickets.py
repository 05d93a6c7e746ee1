"""A lane as a rollout worker sees it: tickets to lease, to keep, and to complete, once each."""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from . import scripts
from .client import LONGEST_BLOCK_S, Client, stream_entries
from .codec import decode_prompt, encode_group
from .config import BrokerConfig
from .dead import DeadLetters
from .errors import CodecError
from .keys import CONSUMERS, LaneKeys
from .trajectory import Group, Prompt

T = TypeVar("T")

RECLAIM_EVERY_S = 0.5
BODY_EXPIRES_S = 900
"""How long the bytes of a group outlive a worker that dies between sending them and completing its prompt."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A prompt that a worker holds; `attempt` counts from 1."""

    entry: str
    prompt: Prompt
    attempt: int


class Tickets:
    """The workers' side of one lane of a run. Thread-safe, as its client is."""

    def __init__(self, client: Client, run: str, lane: str, config: BrokerConfig) -> None:
        self._client: Any = client  # redis-py types every reply as bytes, str or None
        self._config = config
        self._keys = LaneKeys(run, lane)
        self._dead = DeadLetters(client, run, lane)
        self._reclaimed_at = 0.0
        self._renew: Any = client.register_script(scripts.RENEW)
        self._release: Any = client.register_script(scripts.RELEASE)
        self._ensure_consumers()

    def lease(self, worker: str, *, count: int, timeout_s: float) -> list[Lease]:
        """Up to `count` prompts for this worker: expired leases of others first, then new ones, waiting for the first.

        They are its own for `lease_s` unless renewed. A prompt that was tried too often is dead-lettered instead.
        """
        return self._unless_wiped(lambda: self._reclaim(worker, count) or self._lease_new(worker, count, timeout_s), [])

    def renew(self, worker: str, leases: Iterable[Lease]) -> set[str]:
        """Keep leases for another `lease_s`; returns the entries of those that have been lost to another worker."""
        entries = [lease.entry for lease in leases]
        if not entries:
            return set()
        arguments = {"keys": [self._keys.prompts], "args": [CONSUMERS, worker, *entries]}
        lost = self._unless_wiped(lambda: self._renew(**arguments), [entry.encode() for entry in entries])
        return {entry.decode() for entry in lost}

    def complete(self, lease: Lease, group: Group[Any]) -> bool:
        """Put the group in and take the prompt out, in one step; False, and nothing done, if someone else already did.

        The bytes go ahead, to a key of their own that expires unless that step follows; so no script ever moves them.
        """
        body, claim = encode_group(group), uuid.uuid4().hex
        keys = [self._keys.prompts, self._keys.groups, self._keys.body(claim)]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(keys[2], body, ex=BODY_EXPIRES_S, nx=True)
            pipe.eval(scripts.COMPLETE, 3, *keys, CONSUMERS, lease.entry, group.prompt_id, claim, len(body))
            return bool(pipe.execute()[1])

    def release(self, worker: str, lease: Lease) -> None:
        """Hand a prompt back untried, for whoever asks next."""
        self._give_up(worker, lease, attempts=lease.attempt - 1)

    def fail(self, worker: str, lease: Lease, cause: str) -> bool:
        """Report a failed try: True if the prompt will be tried again, False if it is now a dead letter."""
        if lease.attempt < self._config.max_attempts:
            self._give_up(worker, lease, attempts=lease.attempt)
            return True
        self._dead.bury("prompts", lease.entry, cause, attempts=lease.attempt, worker=worker)
        return False

    def _give_up(self, worker: str, lease: Lease, *, attempts: int) -> None:
        arguments = {"keys": [self._keys.prompts], "args": [CONSUMERS, worker, lease.entry, attempts]}
        self._unless_wiped(lambda: self._release(**arguments), 0)

    def _unless_wiped(self, call: Callable[[], T], otherwise: T) -> T:
        """What the call returns; `otherwise` where Redis has come back without the lane, which is then made again."""
        try:
            return call()
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._ensure_consumers()
            return otherwise

    def _reclaim(self, worker: str, count: int) -> list[Lease]:
        if time.monotonic() - self._reclaimed_at < RECLAIM_EVERY_S:
            return []
        self._reclaimed_at = time.monotonic()
        min_idle_ms = round(1000 * self._config.lease_s)
        cursor = b"0-0"
        claimed: list[tuple[bytes, dict[bytes, bytes]]] = []
        while len(claimed) < count:  # one call looks at 10 leases for each that is wanted
            room = count - len(claimed)
            cursor, found, *_ = self._client.xautoclaim(
                self._keys.prompts, CONSUMERS, worker, min_idle_ms, start_id=cursor, count=room
            )
            claimed += found
            if cursor == b"0-0":
                break
        entries = [(entry.decode(), fields) for entry, fields in claimed if fields]
        return self._leases(worker, ((entry, fields, self._attempts(entry)) for entry, fields in entries))

    def _lease_new(self, worker: str, count: int, timeout_s: float) -> list[Lease]:
        block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S))) if timeout_s > 0 else None
        found = self._client.xreadgroup(CONSUMERS, worker, {self._keys.prompts: ">"}, count=count, block=block_ms)
        return self._leases(worker, ((entry, fields, 1) for entry, fields in stream_entries(found)))

    def _attempts(self, entry: str) -> int:
        pending = self._client.xpending_range(self._keys.prompts, CONSUMERS, entry, entry, 1)
        return int(pending[0]["times_delivered"]) if pending else 1

    def _leases(self, worker: str, found: Iterable[tuple[str, dict[bytes, bytes], int]]) -> list[Lease]:
        leases = []
        for entry, fields, attempt in found:
            try:
                lease = Lease(entry, decode_prompt(fields.get(b"body", b"")), attempt)
            except CodecError as error:
                self._dead.bury("prompts", entry, str(error), attempts=attempt, worker=worker)
                continue
            if attempt > self._config.max_attempts:
                cause = f"{attempt - 1} workers in turn fell silent while they held it"
                self._dead.bury("prompts", entry, cause, attempts=attempt - 1, worker=worker)
                continue
            leases.append(lease)
        return leases

    def _ensure_consumers(self) -> None:
        try:
            self._client.xgroup_create(self._keys.prompts, CONSUMERS, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
