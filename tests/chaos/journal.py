"""The test's own ledger: what each process saw itself do, a flushed JSON line for each, a file for each incarnation."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Began:
    """A process with its code loaded, which took `import_s`, begins what it was told at `told_at` (Unix seconds)."""

    import_s: float
    told_at: float


@dataclass(frozen=True, slots=True)
class Led:
    """A learner leads `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A learner goes on from the checkpoint of `step` that a learner of `epoch` wrote."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A learner has its model and is about to run."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Positions that the broker said are issued."""

    epoch: int
    positions: list[int]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Groups that came to a learner: their entries in the broker, and their positions."""

    entries: list[str]
    positions: list[int]


@dataclass(frozen=True, slots=True)
class Trained:
    """A step that was taken at `version`, with the oldest version of each trajectory; `too_old` counts masked tokens."""

    epoch: int
    step: int
    version: int
    positions: list[int]
    oldest: list[int]
    too_old: int


@dataclass(frozen=True, slots=True)
class Durable:
    """A checkpoint that is on the disk; `learned` are areal's own ranges of positions in it."""

    epoch: int
    step: int
    learned: list[list[int]]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Entries that a learner is about to have forgotten."""

    epoch: int
    entries: list[str]


@dataclass(frozen=True, slots=True)
class Leased:
    """A worker was given a prompt."""

    position: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Started:
    """A worker began to generate."""

    position: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A worker offered a group; not `accepted` if the broker had it already."""

    position: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker reported a failed try."""

    position: int
    again: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """Redis answered (noted a few times a second, not each time)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A role ended by itself, on an error unless `kind` is empty."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault, which lasts for `lasts_s` (0 for a kill)."""

    number: int
    kind: str
    target: str
    detail: str
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Replaced:
    """A learner was stopped where it stood, to be replaced and woken up later."""

    target: str


@dataclass(frozen=True, slots=True)
class RedisDied:
    """Redis was killed, and `lost_bytes` cut off the end of its append-only file."""

    lost_bytes: int


@dataclass(frozen=True, slots=True)
class RedisStarted:
    """Redis is being started again."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The proxy dropped a connection of `role` in the middle of a message, after `passed` of its `size` bytes."""

    role: str
    way: str
    passed: int
    size: int


Record = (
    Began
    | Led
    | Resumed
    | Loaded
    | Issued
    | Delivered
    | Trained
    | Durable
    | Acknowledged
    | Leased
    | Started
    | Completed
    | Failed
    | Answered
    | Ended
    | Struck
    | Replaced
    | RedisDied
    | RedisStarted
    | Cut
)
KINDS: dict[str, Any] = {kind.__name__: kind for kind in Record.__args__}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, when it was written (Unix seconds), and by which process (`rollout-1.3`: the third of its name)."""

    time: float
    process: str
    record: Record

    @property
    def role(self) -> str:
        return self.process.partition(".")[0]


class Journal:
    """Writes the entries of one process. Thread-safe: each is one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, record: Record, *, flush: bool = True) -> None:
        """Append a record, on the disk when this returns."""
        line = {"time": time.time(), "record": type(record).__name__} | asdict(record)
        os.write(self._file, json.dumps(line).encode() + b"\n")
        if flush:
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """Reads the journals in a directory as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.entries: list[Entry] = []

    def poll(self) -> list[Entry]:
        """The entries since the last call, in the order of time; those of one process in the order it wrote them."""
        new = [entry for path in sorted(self._directory.glob("*.jsonl")) for entry in self._news(path)]
        new.sort(key=lambda entry: entry.time)
        self.entries += new
        return new

    def _news(self, path: Path) -> list[Entry]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._read[path] = self._read.get(path, 0) + len(whole) + 1
        return [_entry(path.stem, json.loads(line)) for line in whole.split(b"\n")]


def _entry(process: str, line: dict[str, Any]) -> Entry:
    when, kind = line.pop("time"), line.pop("record")
    return Entry(when, process, KINDS[kind](**line))
