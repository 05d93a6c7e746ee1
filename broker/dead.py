"""Dead letters: what could not be done, why, and what a person may decide about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import scripts
from .client import Client
from .keys import CONSUMERS, LaneKeys

MAX_CAUSE = 16_384
PAGE = 256


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them. `source` is the stream it fell out of, "prompts" or "groups"; `position` -1 where that is unknown.

    A prompt carries its `body` (broker/codec.py); a group's bytes lie at the key that `claim` names.
    """

    entry: str
    position: int
    source: str
    cause: str
    attempts: int
    worker: str
    body: bytes
    claim: str


class DeadLetters:
    """The dead letters of one lane."""

    def __init__(self, client: Client, run: str, lane: str) -> None:
        self._client: Any = client
        self._keys = LaneKeys(run, lane)
        self._bury = client.register_script(scripts.BURY)
        self._retry = client.register_script(scripts.RETRY)
        self._drop = client.register_script(scripts.DROP)

    def bury(self, source: str, entry: str, cause: str, *, attempts: int = 1, worker: str = "") -> bool:
        """Move an entry out of "prompts" or "groups"; False, and nothing done, if it is gone."""
        keys = [self._keys.of(source), self._keys.dead]
        return bool(self._bury(keys=keys, args=[CONSUMERS, entry, source, shortened(cause), attempts, worker]))

    def list(self, after: str = "-", *, count: int = PAGE) -> list[DeadLetter]:
        """Up to `count`, oldest first, from those that came after entry `after`."""
        first = after if after == "-" else f"({after}"
        found = self._client.xrange(self._keys.dead, min=first, count=count)
        return [_letter(entry.decode(), fields) for entry, fields in found]

    def get(self, entry: str) -> DeadLetter | None:
        """One of them, by its entry."""
        found = self._client.xrange(self._keys.dead, min=entry, max=entry)
        return _letter(entry, found[0][1]) if found else None

    def payload(self, letter: DeadLetter) -> bytes:
        """The bytes of the prompt or group that died; empty if they are gone."""
        if not letter.claim:
            return letter.body
        body = self._client.get(self._keys.body(letter.claim))
        return body if isinstance(body, bytes) else b""

    def retry(self, letters: Sequence[DeadLetter]) -> int:
        """Have them tried again as soon as the learner has room, so that the bound on staleness holds; returns how many."""
        keys = [self._keys.dead, self._keys.again]
        return sum(int(self._retry(keys=keys, args=[letter.entry])) for letter in letters)

    def drop(self, letters: Sequence[DeadLetter]) -> int:
        """Forget them for good; returns how many were still there. Their positions are never issued again."""
        dropped = 0
        for letter in letters:
            keys = [self._keys.dead, self._keys.dropped, self._keys.body(letter.claim or "-")]
            position = str(letter.position) if letter.position >= 0 else ""
            dropped += int(self._drop(keys=keys, args=[letter.entry, position]))
        return dropped


def shortened(cause: str) -> bytes:
    """The end of a cause, where a traceback says what it was."""
    return cause[-MAX_CAUSE:].encode(errors="backslashreplace")


def number(text: bytes) -> int:
    """The number that a field holds, -1 if that is none."""
    return int(text) if text.isdigit() and len(text) < 19 else -1


def _letter(entry: str, fields: dict[bytes, bytes]) -> DeadLetter:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    return DeadLetter(
        entry=entry,
        position=number(fields.get(b"id", b"")),
        source=text.get("from", ""),
        cause=text.get("cause", ""),
        attempts=max(0, number(fields.get(b"attempts", b""))),
        worker=text.get("worker", ""),
        body=fields.get(b"body", b""),
        claim=text.get("claim", ""),
    )
