"""What the leader of several ranks tells the others, who do in the same order what it does itself.

An order's name and values go through the store where the ranks met, and its groups, as they travel in the broker
(broker/codec.py), by a broadcast. Nothing is unpickled.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from ..broker.codec import decode_group, encode_group
from ..broker.errors import DeadlineExceeded, RoleDied
from ..broker.trajectory import Group

KEPT = 1000
"""Orders that stay; every rank has taken part in a step since older ones."""

LISTEN_S = 1.0
WAIT_S = 7200.0
"""Longer than the leader ever has nothing to say: it waits for groups, for an evaluation, for a checkpoint."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do; `values` are JSON values."""

    name: str
    values: dict[str, Any]
    groups: Sequence[Group[Any]] = ()


class Orders:
    """The leader gives orders, the other ranks take each in turn."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._number = 0

    def give(self, name: str, groups: Sequence[Group[Any]] = (), **values: Any) -> None:
        """Tell every other rank; they may be at it for a while yet."""
        bodies = [encode_group(group) for group in groups]
        order = {"name": name, "values": values, "sizes": [len(body) for body in bodies]}
        self._store.set(self._key(self._number), json.dumps(order))
        self._store.delete_key(self._key(self._number - KEPT))
        self._number += 1
        if bodies:
            torch.distributed.broadcast(torch.frombuffer(bytearray(b"".join(bodies)), dtype=torch.uint8), src=0)

    def take(self) -> Order:
        """The next order, waited for. Raises RoleDied once the leader is gone."""
        said = json.loads(self._awaited(self._key(self._number)))
        self._number += 1
        sizes = said["sizes"]
        if not sizes:
            return Order(said["name"], said["values"])
        body = torch.empty(sum(sizes), dtype=torch.uint8)
        torch.distributed.broadcast(body, src=0)
        groups = [decode_group(part.numpy().data) for part in torch.split(body, sizes)]
        return Order(said["name"], said["values"], groups)

    def _key(self, number: int) -> str:
        return f"order/{number}"

    def _awaited(self, key: str) -> bytes:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                self._store.wait([key], timedelta(seconds=LISTEN_S))
            except torch.distributed.DistStoreError:  # nothing yet
                continue
            except torch.distributed.DistError as error:
                raise RoleDied("the learner that leads is gone, and its ranks with it") from error
            value: bytes = self._store.get(key)
            return value
        raise DeadlineExceeded(f"the learner that leads said nothing for {WAIT_S:g} s")
