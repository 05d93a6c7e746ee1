"""Where the ranks of a learner meet: the leader announces a place for its epoch, the others look it up."""

import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from .client import Client
from .keys import Keys

KEPT_S = 3600
MAX_BYTES = 1024
TOKEN = re.compile(r"[\w-]{16,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A host and port that the leader of an epoch listens on, for `count` ranks, itself included.

    Others may listen there later: what the ranks say to each other there bears the `token`, which no other place has.
    """

    epoch: int
    host: str
    port: int
    count: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))


class Meeting:
    """The place of the epoch that leads; a rank that looks it up never meets a leader whose epoch is over."""

    def __init__(self, client: Client, run: str) -> None:
        self._client: Any = client
        self._keys = Keys(run)

    def announce(self, place: Place) -> None:
        """Say where the ranks of this epoch meet."""
        self._client.set(self._keys.meeting(place.epoch), json.dumps(asdict(place)), ex=KEPT_S)

    def place(self) -> Place | None:
        """Where the ranks of the leading epoch meet; None while that is not known."""
        epoch = int(self._client.get(self._keys.epoch) or 0)
        return _place(self._client.get(self._keys.meeting(epoch)) or b"", epoch)


def _place(announced: bytes, epoch: int) -> Place | None:
    try:
        said = json.loads(announced[:MAX_BYTES])
        place = Place(epoch, str(said["host"]), int(said["port"]), int(said["count"]), str(said["token"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return place if 0 < place.port < 65536 and place.count > 0 and TOKEN.fullmatch(place.token) else None
