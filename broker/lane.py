"""A lane: the way of prompts to the workers and of groups back, with leases between.

    issue ─▶ prompts ─lease─▶ a worker ─complete─▶ groups ─take─▶ the learner ─acknowledge─▶ gone
               ▲                 │ dies, fails        (one atomic step out of prompts and into groups)
               └──── expires ────┴─ too often ─▶ dead

Training and evaluation are two lanes of the same kind.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from . import scripts
from .client import LONGEST_BLOCK_S, Client, stream_entries
from .codec import decode_group, decode_prompt, encode_group, encode_prompt
from .config import BrokerConfig
from .errors import CodecError, Fenced
from .keys import Keys
from .trajectory import Group, Prompt

CONSUMERS = "rollout"
RECLAIM_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Lease:
    """A prompt that a worker holds; `attempt` counts from 1."""

    entry: str
    prompt: Prompt
    attempt: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A group as it lies in the broker: still there until acknowledged."""

    entry: str
    group: Group[Any]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be done, and why."""

    entry: str
    prompt_id: int
    cause: str
    attempts: int
    worker: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Depth:
    """What a lane holds: `issued` positions in all, of which `prompts` are not completed and `groups` not acknowledged."""

    issued: int
    prompts: int
    groups: int
    dead: int


class Lane:
    """One lane of a run. Thread-safe, as its client is."""

    def __init__(self, client: Client, run: str, name: str, config: BrokerConfig) -> None:
        keys = Keys(run)
        self._client: Any = client  # redis-py types every reply as bytes, str or None
        self._config = config
        self._epoch_key = keys.epoch
        self._prompts = keys.of(name, "prompts")
        self._groups = keys.of(name, "groups")
        self._dead = keys.of(name, "dead")
        self._issued = keys.of(name, "issued")
        self._reclaimed_at = 0.0
        self._depth: Any = client.register_script(scripts.DEPTH)
        self._issue: Any = client.register_script(scripts.ISSUE)
        self._skip_to = client.register_script(scripts.SKIP_TO)
        self._complete: Any = client.register_script(scripts.COMPLETE)
        self._renew = client.register_script(scripts.RENEW)
        self._release = client.register_script(scripts.RELEASE)
        self._bury_script: Any = client.register_script(scripts.BURY)
        self._acknowledge = client.register_script(scripts.ACKNOWLEDGE)
        self._ensure_consumers()

    # The learner's side

    def depth(self) -> Depth:
        """What the lane holds, at one instant."""
        return Depth(*self._depth(keys=[self._issued, self._prompts, self._groups, self._dead]))

    def issue(self, prompts: Sequence[Prompt], *, epoch: int) -> int:
        """Issue prompts at consecutive positions; returns the number issued so far. Raises Fenced."""
        if not prompts:
            return self.depth().issued
        bodies = [encode_prompt(prompt) for prompt in prompts]
        keys = [self._epoch_key, self._prompts, self._issued]
        return int(fenced(self._issue, keys, [epoch, prompts[0].id, *bodies]))

    def skip_to(self, position: int, *, epoch: int) -> None:
        """Issue nothing below `position` any more: a Redis that lost its data starts where the run stands. May be Fenced."""
        fenced(self._skip_to, [self._epoch_key, self._issued], [epoch, position])

    def take(self, after: str, *, count: int, timeout_s: float) -> tuple[list[Delivery], str]:
        """Up to `count` groups that came after entry `after` ("0" for the oldest), and where to go on from.

        Waits at most `timeout_s` (and LONGEST_BLOCK_S) for the first. A group that cannot be decoded is dead-lettered.
        """
        block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S)))
        found = self._client.xread({self._groups: after}, count=count, block=block_ms)
        deliveries = []
        for entry, fields in stream_entries(found):
            after = entry
            try:
                deliveries.append(Delivery(entry, decode_group(fields.get(b"body", b""))))
            except CodecError as error:
                self._bury(self._groups, _unreadable(entry, fields, error))
        return deliveries, after

    def acknowledge(self, entries: Sequence[str], *, epoch: int) -> int:
        """Forget groups that a durable checkpoint covers; returns how many were still there. Raises Fenced."""
        if not entries:
            return 0
        return int(fenced(self._acknowledge, [self._epoch_key, self._groups], [epoch, *entries]))

    def reject(self, delivery: Delivery, cause: str) -> None:
        """Dead-letter a group that must not be learned from."""
        group = delivery.group
        self._bury(
            self._groups, DeadLetter(delivery.entry, group.prompt_id, cause, 1, group.worker, encode_group(group))
        )

    def dead_letters(self, count: int | None = None) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        return [
            DeadLetter(
                entry=entry.decode(),
                prompt_id=int(fields[b"id"]),
                cause=fields[b"cause"].decode(errors="replace"),
                attempts=int(fields[b"attempts"]),
                worker=fields[b"worker"].decode(errors="replace"),
                body=fields[b"body"],
            )
            for entry, fields in self._client.xrange(self._dead, count=count)
        ]

    # The worker's side

    def lease(self, worker: str, *, count: int, timeout_s: float) -> list[Lease]:
        """Up to `count` prompts for this worker: expired leases of others first, then new ones, waiting for the first.

        They are its own for `lease_s` unless renewed. A prompt that was tried too often is dead-lettered instead.
        """
        try:
            return self._reclaim(worker, count) or self._lease_new(worker, count, timeout_s)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._ensure_consumers()
            return []

    def renew(self, worker: str, leases: Iterable[Lease]) -> set[str]:
        """Keep leases for another `lease_s`; returns the entries of those that have been lost to another worker."""
        entries = [lease.entry for lease in leases]
        if not entries:
            return set()
        return {entry.decode() for entry in self._renew(keys=[self._prompts], args=[CONSUMERS, worker, *entries])}

    def complete(self, lease: Lease, group: Group[Any]) -> bool:
        """Put the group in and take the prompt out, in one step; False, and nothing done, if someone else already did."""
        arguments = [CONSUMERS, lease.entry, group.prompt_id, encode_group(group)]
        return bool(self._complete(keys=[self._prompts, self._groups], args=arguments))

    def release(self, worker: str, lease: Lease) -> None:
        """Hand a prompt back untried, for whoever asks next."""
        self._release(keys=[self._prompts], args=[CONSUMERS, worker, lease.entry, lease.attempt - 1])

    def fail(self, worker: str, lease: Lease, cause: str) -> bool:
        """Report a failed try: True if the prompt will be tried again, False if it is now a dead letter."""
        if lease.attempt < self._config.max_attempts:
            self._release(keys=[self._prompts], args=[CONSUMERS, worker, lease.entry, lease.attempt])
            return True
        self._bury(self._prompts, _letter(lease, cause, attempts=lease.attempt, worker=worker))
        return False

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
                self._prompts, CONSUMERS, worker, min_idle_ms, start_id=cursor, count=room
            )
            claimed += found
            if cursor == b"0-0":
                break
        entries = [(entry.decode(), fields) for entry, fields in claimed if fields]
        return self._leases(worker, ((entry, fields, self._attempts(entry)) for entry, fields in entries))

    def _lease_new(self, worker: str, count: int, timeout_s: float) -> list[Lease]:
        block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S))) if timeout_s > 0 else None
        found = self._client.xreadgroup(CONSUMERS, worker, {self._prompts: ">"}, count=count, block=block_ms)
        return self._leases(worker, ((entry, fields, 1) for entry, fields in stream_entries(found)))

    def _attempts(self, entry: str) -> int:
        pending = self._client.xpending_range(self._prompts, CONSUMERS, entry, entry, 1)
        return int(pending[0]["times_delivered"]) if pending else 1

    def _leases(self, worker: str, found: Iterable[tuple[str, dict[bytes, bytes], int]]) -> list[Lease]:
        leases = []
        for entry, fields, attempt in found:
            try:
                lease = Lease(entry, decode_prompt(fields.get(b"body", b"")), attempt)
            except CodecError as error:
                self._bury(self._prompts, _unreadable(entry, fields, error, attempts=attempt, worker=worker))
                continue
            if attempt > self._config.max_attempts:
                cause = f"{attempt - 1} workers in turn fell silent while they held it"
                self._bury(self._prompts, _letter(lease, cause, attempts=attempt - 1, worker=worker))
                continue
            leases.append(lease)
        return leases

    def _bury(self, stream: str, letter: DeadLetter) -> None:
        """Move an entry from a stream to the dead letters; nothing happens if it is gone."""
        what = [letter.prompt_id, letter.body, letter.cause, letter.attempts, letter.worker]
        self._bury_script(keys=[stream, self._dead], args=[CONSUMERS, letter.entry, *what])

    def _ensure_consumers(self) -> None:
        try:
            self._client.xgroup_create(self._prompts, CONSUMERS, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def _letter(lease: Lease, cause: str, *, attempts: int, worker: str) -> DeadLetter:
    return DeadLetter(lease.entry, lease.prompt.id, cause, attempts, worker, encode_prompt(lease.prompt))


def _unreadable(
    entry: str, fields: dict[bytes, bytes], error: CodecError, *, attempts: int = 1, worker: str = ""
) -> DeadLetter:
    """The dead letter of bytes that are no message; what they say of themselves is kept where it can be."""
    claimed = fields.get(b"id", b"")
    prompt_id = int(claimed) if claimed.isdigit() and len(claimed) < 19 else -1
    return DeadLetter(entry, prompt_id, str(error), attempts, worker, fields.get(b"body", b""))


def fenced(script: Any, keys: list[str], args: list[Any]) -> Any:
    """Run a script that only the learner of the current epoch may run; raises Fenced for any other."""
    try:
        return script(keys=keys, args=args)
    except redis.ResponseError as error:
        if "FENCED" not in str(error):
            raise
        raise Fenced(f"this learner's epoch {args[0]} is over ({error}): another learner leads the run now") from error
