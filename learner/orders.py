"""What the leader of several ranks tells the others, who do in the same order what it does itself.

An order's name and values go through the store where the ranks met, and its groups, as they travel in the broker
(broker/codec.py), by a broadcast. Nothing of them is unpickled.
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
"""Orders that stay; a rank as far behind as that has long kept the others waiting beyond a deadline."""

WAIT = "wait"
REASSURE_S = 60.0
"""How often the leader says that there is nothing to do, while it waits for groups, for as long as that may be."""

LISTEN_S = 1.0
PATIENCE_S = 1200.0
"""Longer than the leader is silent otherwise: at most for the weights under way (600 s) and, after them, the last
evaluation (300 s), or for the loading of a model. Where it waits for a checkpoint, the others wait for that too."""


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
        self._said_at = time.monotonic()

    def give(self, name: str, groups: Sequence[Group[Any]] = (), **values: Any) -> None:
        """Tell every other rank; they may be at it for a while yet."""
        bodies = [encode_group(group) for group in groups]
        order = {"name": name, "values": values, "sizes": [len(body) for body in bodies]}
        self._store.set(self._key(self._number), json.dumps(order))
        self._store.delete_key(self._key(self._number - KEPT))
        self._number += 1
        self._said_at = time.monotonic()
        if bodies:
            torch.distributed.broadcast(torch.frombuffer(bytearray(b"".join(bodies)), dtype=torch.uint8), src=0)

    def reassure(self) -> None:
        """Have every other rank wait on, if it has heard nothing for a while."""
        if time.monotonic() - self._said_at >= REASSURE_S:
            self.give(WAIT)

    def take(self) -> Order:
        """The next order that there is something to do for. Raises RoleDied once the leader is gone, DeadlineExceeded
        once it says nothing any more."""
        said = self._next()
        while said["name"] == WAIT:
            said = self._next()
        sizes = said["sizes"]
        if not sizes:
            return Order(said["name"], said["values"])
        body = torch.empty(sum(sizes), dtype=torch.uint8)
        torch.distributed.broadcast(body, src=0)
        groups = [decode_group(part.numpy().data) for part in torch.split(body, sizes)]
        return Order(said["name"], said["values"], groups)

    def _next(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._awaited(self._key(self._number)))
        self._number += 1
        return said

    def _key(self, number: int) -> str:
        return f"order/{number}"

    def _awaited(self, key: str) -> bytes:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                self._store.wait([key], timedelta(seconds=LISTEN_S))
            except torch.distributed.DistStoreError:  # nothing yet
                continue
            except torch.distributed.DistError as error:
                raise RoleDied("the learner that leads is gone, and its ranks with it") from error
            value: bytes = self._store.get(key)
            return value
        raise DeadlineExceeded(f"the learner that leads said nothing for {PATIENCE_S:g} s")
