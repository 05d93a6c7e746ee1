"""How weights get from the learner to the workers: through a directory that both see, through Redis, or directly.

A transport moves them by name and knows nothing of versions; what is announced, and when, is the WeightStore's.
"""

import fcntl
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import BrokerError
from .folder import checksum, flush, sync, verify, weight_files

Write = Callable[[Path], None]
"""Fills an empty folder."""

NAME = re.compile(r"[0-9]{8,9}-[0-9]{1,15}")
"""Of a folder of weights: its version, and the epoch of the learner that wrote it."""


@dataclass(frozen=True, slots=True)
class Depot:
    """Where the learner of an epoch hands out what it has in memory, to whoever has the token (direct.py)."""

    epoch: int
    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Held:
    """A version that lies in a learner's memory, or did when it was announced."""

    depot: Depot
    name: str
    digest: int


Source = Path | Held
"""What an engine loads: a folder of safetensors, or what it must ask a learner for."""

PARTIAL = re.compile(rf"\.({NAME.pattern})\.[0-9a-f]{{32}}\.partial")


class Transport(Protocol):
    """Every name given to it matches NAME."""

    def put(self, name: str, given: Any) -> int:
        """Make a version fetchable whole under `name`: the folder that is filled by the Write that is `given`, or the
        tensors themselves (direct.py); returns its digest."""

    def restore(self, name: str, digest: int) -> None:
        """Make what was put last fetchable again where it is not; raises BrokerError if it is lost."""

    def fetch(self, name: str, digest: int) -> Source:
        """The folder, verified, which stays at least until the next is fetched; or where the tensors are.

        Raises BrokerError if it cannot be had.
        """

    def forget(self, announced: set[str], *, epoch: int) -> None:
        """Delete all that is not announced, half of it or whole, but nothing that a later epoch's learner has put."""


class SharedDirectory:
    """Folders in a directory that learner and workers see, each perhaps under another path of its own.

    Written aside, flushed and renamed. Whoever has fetched a folder holds a shared lock on its first file, and it is not
    deleted under him; a file system without locks (some NFS) does without.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._let_go: Callable[[], object] = lambda: None

    def put(self, name: str, write: Write) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        aside = self._directory / f".{name}.{uuid.uuid4().hex}.partial"
        aside.mkdir()
        try:
            write(aside)
            weight_files(aside)
            flush(aside)
            digest = checksum(aside)
            shutil.rmtree(self._directory / name, ignore_errors=True)
            aside.rename(self._directory / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(self._directory)
        return digest

    def restore(self, name: str, digest: int) -> None:
        verify(self._directory / name, digest)

    def fetch(self, name: str, digest: int) -> Path:
        folder = self._directory / name
        self._hold(weight_files(folder)[0])
        verify(folder, digest)
        return folder

    def forget(self, announced: set[str], *, epoch: int) -> None:
        for folder in self._directory.iterdir() if self._directory.is_dir() else []:
            partial = PARTIAL.fullmatch(folder.name)
            name = partial[1] if partial else folder.name
            if NAME.fullmatch(name) and epoch_of(name) <= epoch and (partial or name not in announced):
                _delete(folder)

    def _hold(self, file: Path) -> None:
        """Lock a file against deletion, in place of the one before."""
        self._let_go()
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise BrokerError(f"the weights at {file.parent} cannot be read: {error}") from error
        self._let_go = weakref.finalize(self, os.close, descriptor)
        if not _locked(descriptor, fcntl.LOCK_SH):
            raise BrokerError(f"the weights at {file.parent} are being deleted")


def epoch_of(name: str) -> int:
    """The epoch of the learner that put a folder."""
    return int(name.rpartition("-")[2])


def _delete(folder: Path) -> None:
    """Delete a folder unless somebody holds it; then a later call will."""
    try:
        first = min(folder.iterdir())
        with first.open("r+b") as file:
            if _locked(file.fileno(), fcntl.LOCK_EX):
                shutil.rmtree(folder, ignore_errors=True)
    except (OSError, ValueError):  # not even one file that could be held
        shutil.rmtree(folder, ignore_errors=True)


def _locked(descriptor: int, how: int) -> bool:
    """Whether the lock was granted at once; a file system without locks grants every one."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
