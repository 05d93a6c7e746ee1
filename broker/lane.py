"""A lane as the learner sees it: prompts go out, groups come in, and everything is in exactly one place.

    issue ─▶ prompts ─lease─▶ a worker ─complete─▶ groups ─take─▶ the learner ─acknowledge─▶ gone
               ▲                 │ dies, fails        (one atomic step out of prompts and into groups)
               └──── expires ────┴─ too often ─▶ dead ─retry─▶ again ─resume─▶ prompts

Training and evaluation are two lanes of the same kind. The workers' side is broker/tickets.py.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import scripts
from .client import LONGEST_BLOCK_S, Client, stream_entries
from .codec import decode_group, encode_prompt
from .dead import DeadLetters, number, shortened
from .errors import CodecError
from .fence import fenced
from .keys import Keys, LaneKeys
from .trajectory import Group, Prompt

FETCH_BYTES = 32 * 2**20
"""What one reply may bring, unless a single group is larger."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A group's entry: its position, and the claim on its `size` bytes; -1 where the entry does not say."""

    entry: str
    position: int
    claim: str
    size: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A group as it lies in the broker, still there until acknowledged; decoding and checking it took `decode_s`."""

    receipt: Receipt
    group: Group[Any]
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Depth:
    """What a lane holds: `issued` positions in all, and how many of them are where."""

    issued: int
    prompts: int
    groups: int
    dead: int
    again: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """What matters to whoever issues: the prompts not completed, the letters, those to be tried again, and every group.

    `server` is the process that answered: another one than before may have come up with an older state.
    """

    server: str
    issued: int
    prompts: int
    again: int
    dead: int
    groups: tuple[Receipt, ...]


class Lane:
    """The learner's side of one lane of a run. Thread-safe, as its client is."""

    def __init__(self, client: Client, run: str, name: str) -> None:
        self._client: Any = client  # redis-py types every reply as bytes, str or None
        self._keys = LaneKeys(run, name)
        self._epoch_key = Keys(run).epoch
        self._dead = DeadLetters(client, run, name)
        self._positions: Any = client.register_script(scripts.POSITIONS)
        self._issue = client.register_script(scripts.ISSUE)
        self._reissue = client.register_script(scripts.REISSUE)
        self._resume = client.register_script(scripts.RESUME)
        self._reject = client.register_script(scripts.REJECT)
        self._acknowledge = client.register_script(scripts.ACKNOWLEDGE)

    def depth(self) -> Depth:
        """What the lane holds, at one instant."""
        keys = self._keys
        with self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.issued)
            for stream in (keys.prompts, keys.groups, keys.dead, keys.again):
                pipe.xlen(stream)
            pipe.scard(keys.dropped)
            issued, *counts = pipe.execute()
        return Depth(int(issued or 0), *counts)

    def listing(self) -> Listing:
        """What counts against the bound on outstanding groups, at one instant."""
        keys = self._keys
        with self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.issued)
            pipe.xlen(keys.prompts)
            pipe.xlen(keys.again)
            pipe.xlen(keys.dead)
            pipe.info("server")
            pipe.xrange(keys.groups)
            issued, prompts, again, dead, server, groups = pipe.execute()
        receipts = tuple(_receipt(entry.decode(), fields) for entry, fields in groups)
        return Listing(server["run_id"], int(issued or 0), prompts, again, dead, receipts)

    def positions(self) -> set[int]:
        """Every position that the lane holds: not completed, not acknowledged, dead, to be tried again, or dropped."""
        keys = self._keys
        found = self._positions(keys=[keys.prompts, keys.groups, keys.dead, keys.again, keys.dropped])
        return {number(position) for position in found} - {-1}

    def issue(self, prompts: Sequence[Prompt], *, after: int, epoch: int) -> int:
        """Issue prompts at rising positions, none below `after`; returns the position above all that were issued.

        Nothing is done unless that was `after` before: a call that is repeated issues nothing twice. Raises Fenced.
        """
        if not prompts:
            return after
        keys = [self._epoch_key, self._keys.prompts, self._keys.issued]
        return int(fenced(self._issue, keys, [epoch, after, *_bodies(prompts)]))

    def reissue(self, prompts: Sequence[Prompt], *, epoch: int) -> int:
        """Issue positions that were lost; those that wait already are passed over. Returns how many. Raises Fenced."""
        if not prompts:
            return 0
        keys = [self._epoch_key, self._keys.prompts, self._keys.groups]
        return int(fenced(self._reissue, keys, [epoch, *_bodies(prompts)]))

    def resume(self, count: int, *, waiting: int, epoch: int) -> int:
        """Put up to `count` of the letters that are to be tried again back where they came from.

        Nothing is done unless `waiting` of them wait: a call that is repeated puts nothing back beyond that. Returns
        how many, 0 perhaps where the first reply was lost. Raises Fenced.
        """
        if count <= 0:
            return 0
        keys = [self._epoch_key, self._keys.again, self._keys.prompts, self._keys.groups]
        return int(fenced(self._resume, keys, [epoch, count, waiting]))

    def take(self, after: str, *, count: int, timeout_s: float) -> tuple[list[Delivery], str]:
        """Up to `count` groups that came after entry `after` ("0" for the oldest), and where to go on from.

        Waits at most `timeout_s` (and LONGEST_BLOCK_S) for the first. A group that cannot be decoded is dead-lettered.
        """
        block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S)))
        found = stream_entries(self._client.xread({self._keys.groups: after}, count=count, block=block_ms))
        receipts = [_receipt(entry, fields) for entry, fields in found]
        return self.fetch(receipts), receipts[-1].entry if receipts else after

    def fetch(self, receipts: Sequence[Receipt]) -> list[Delivery]:
        """The groups of these receipts. One that cannot be decoded is dead-lettered."""
        deliveries = []
        for batch in _batches(receipts):
            bodies = self._client.mget([self._keys.body(receipt.claim) for receipt in batch])
            for receipt, body in zip(batch, bodies, strict=True):
                try:
                    began = time.perf_counter()
                    group = _opened(receipt, body)
                    deliveries.append(Delivery(receipt, group, time.perf_counter() - began))
                except CodecError as error:
                    self._dead.bury("groups", receipt.entry, str(error))
        return deliveries

    def acknowledge(self, receipts: Sequence[Receipt], *, epoch: int) -> int:
        """Forget groups that a durable checkpoint covers; returns how many were still there. Raises Fenced."""
        if not receipts:
            return 0
        keys = [self._epoch_key, self._keys.groups, *(self._keys.body(receipt.claim) for receipt in receipts)]
        return int(fenced(self._acknowledge, keys, [epoch, *(receipt.entry for receipt in receipts)]))

    def reject(self, receipt: Receipt, cause: str, *, worker: str, epoch: int) -> bool:
        """Dead-letter a group that must not be learned from; False if it is gone. Raises Fenced."""
        keys = [self._epoch_key, self._keys.groups, self._keys.dead]
        about = [receipt.entry, "groups", shortened(cause), 1, worker]
        return bool(fenced(self._reject, keys, [epoch, *about]))


def _bodies(prompts: Sequence[Prompt]) -> list[int | bytes]:
    return [part for prompt in prompts for part in (prompt.id, encode_prompt(prompt))]


def _receipt(entry: str, fields: dict[bytes, bytes]) -> Receipt:
    claim = fields.get(b"claim", b"").decode(errors="replace")
    return Receipt(entry, number(fields.get(b"id", b"")), claim, number(fields.get(b"size", b"")))


def _batches(receipts: Sequence[Receipt]) -> Iterator[list[Receipt]]:
    """The same in order, FETCH_BYTES at a time."""
    batch: list[Receipt] = []
    total = 0
    for receipt in receipts:
        if batch and total + receipt.size > FETCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(receipt)
        total += receipt.size
    if batch:
        yield batch


def _opened(receipt: Receipt, body: bytes | None) -> Group[Any]:
    if body is None:
        raise CodecError(f"the {receipt.size} bytes of the group are gone")
    if len(body) != receipt.size:
        raise CodecError(f"a group of {receipt.size} bytes was announced, and {len(body)} are there")
    group = decode_group(body)
    if group.prompt_id != receipt.position:
        raise CodecError(f"a group of prompt {group.prompt_id} lies where one of prompt {receipt.position} was wanted")
    return group
