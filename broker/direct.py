"""Versions that stay in the learner's memory, from where it hands them to each engine itself: neither file nor Redis between.

Redis holds where that is, and a token by which the learner knows who has read it there. How the tensors move is the
business of areal.transfer; this knows of no tensor.
"""

import json
from dataclasses import asdict
from typing import Any, Protocol

from . import scripts
from .client import Client
from .errors import BrokerError
from .fence import fenced
from .keys import Keys
from .meeting import TOKEN
from .transport import Depot, Held, epoch_of

MAX_BYTES = 1024


class Memory(Protocol):
    """The learner's, with what hands out of it."""

    def depot(self, epoch: int) -> Depot:
        """Where it hands out."""

    def hold(self, name: str, tensors: Any) -> int:
        """Keep tensors that nobody changes, for whoever asks for the name; the digest of what is said of them."""

    def holds(self, name: str) -> bool:
        """Whether it has them yet."""

    def keep_newest(self, names: set[str]) -> None:
        """Let go of all but the newest of these."""


class Direct:
    """The transport of a learner that has such a memory, and of workers, which have none of the run's."""

    def __init__(self, client: Client, run: str, memory: Memory | None = None) -> None:
        self._client: Any = client
        self._keys = Keys(run)
        self._memory = memory
        self._tell_depot = client.register_script(scripts.TELL)

    def put(self, name: str, given: Any) -> int:
        """Keep the tensors that are given."""
        digest = self._own().hold(name, given)
        self._tell(name)
        return digest

    def restore(self, name: str, digest: int) -> None:
        if not self._own().holds(name):
            raise BrokerError(f"weights {name} are no longer in the learner's memory")
        self._tell(name)

    def fetch(self, name: str, digest: int) -> Held:
        """Where the version is; nothing moves before an engine asks there."""
        depot = _depot(self._client.get(self._keys.depot) or b"")
        if depot is None or depot.epoch != epoch_of(name):
            raise BrokerError(f"weights {name} are gone with the learner that held them")
        return Held(depot, name, digest)

    def forget(self, announced: set[str], *, epoch: int) -> None:
        """All but the newest go, though more are announced: who has missed one takes a newer one."""
        self._own().keep_newest(announced)

    def _own(self) -> Memory:
        assert self._memory is not None, "a worker publishes nothing"
        return self._memory

    def _tell(self, name: str) -> None:
        depot = self._own().depot(epoch_of(name))
        fenced(self._tell_depot, [self._keys.epoch, self._keys.depot], [depot.epoch, json.dumps(asdict(depot))])


def depot_of(client: Client, run: str) -> Depot | None:
    """Where the weights of a run were handed out last; None before the first."""
    told: Any = client.get(Keys(run).depot)
    return _depot(told or b"")


def _depot(told: bytes) -> Depot | None:
    try:
        said = json.loads(told[:MAX_BYTES])
        depot = Depot(int(said["epoch"]), str(said["host"]), int(said["port"]), str(said["token"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return depot if 0 < depot.port < 65536 and TOKEN.fullmatch(depot.token) else None
