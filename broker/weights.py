"""The weights on their way from the learner to the engines: versions that only rise, whole or not there at all.

A version is a folder of safetensors in a directory that both sides see; Redis carries its announcement. It is written
aside, flushed to disk and renamed, and its checksum is verified by whoever loads it.
"""

import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from . import scripts
from .client import LONGEST_BLOCK_S, Client
from .errors import BrokerError
from .keys import Keys
from .lane import fenced

CHUNK_BYTES = 2**20
FOLDER_NAME = re.compile(r"\d{8,}-\d+")


@dataclass(frozen=True, slots=True)
class Published:
    """One version of the weights, as announced."""

    version: int
    path: Path
    digest: int


class WeightStore:
    """Publishes and fetches versions in a directory that both sides see; an announcement carries a folder's name only."""

    def __init__(self, client: Client, run: str, directory: Path, *, kept: int = 3) -> None:
        keys = Keys(run)
        self._client: Any = client
        self._stream = keys.weights
        self._epoch_key = keys.epoch
        self._directory = directory
        self._kept = kept
        self._publish = client.register_script(scripts.PUBLISH)

    def publish(self, version: int, write: Callable[[Path], None], *, epoch: int) -> Published:
        """Let `write` fill a folder, make it durable and announce it; the oldest beyond `kept` are deleted.

        Raises Fenced for a learner whose epoch is over, and BrokerError for a version that is not above the last one.
        """
        path = self._directory / f"{version:08d}-{epoch}"
        latest = self.latest()
        if latest is not None and latest.path == path:
            raise BrokerError(f"version {version} cannot be published: it has been already")
        self._directory.mkdir(parents=True, exist_ok=True)
        aside = self._directory / f".{version:08d}.{os.getpid()}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        write(aside)
        flush(aside)
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
        published = Published(version, path, checksum(path))
        try:
            fenced(
                self._publish,
                [self._epoch_key, self._stream],
                [epoch, version, path.name, published.digest, self._kept],
            )
        except redis.ResponseError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise BrokerError(f"version {version} cannot be published: {error} is not below it") from error
        self._forget_old(epoch)
        return published

    def latest(self) -> Published | None:
        """The newest version, or None before the first."""
        return self._newest()[1]

    def wait(self, after: int, *, timeout_s: float) -> Published | None:
        """The newest version above `after`, waited for at most `timeout_s` (and LONGEST_BLOCK_S); else None."""
        entry, newest = self._newest()
        if newest is None or newest.version <= after:
            block_ms = max(1, round(1000 * min(timeout_s, LONGEST_BLOCK_S)))
            self._client.xread({self._stream: entry}, count=1, block=block_ms)
            newest = self.latest()
        return newest if newest is not None and newest.version > after else None

    def _newest(self) -> tuple[str, Published | None]:
        """The last announcement's entry and what it says; ("0", None) before the first. Raises BrokerError."""
        found = self._client.xrevrange(self._stream, count=1)
        if not found:
            return "0", None
        entry, fields = found[0]
        name = fields[b"name"].decode(errors="replace")
        if not FOLDER_NAME.fullmatch(name):
            raise BrokerError(f"weights were announced in a folder of the odd name {name!r}")
        return entry.decode(), Published(int(fields[b"version"]), self._directory / name, int(fields[b"digest"]))

    def _forget_old(self, epoch: int) -> None:
        """Delete what is no longer announced, but never a folder of a later epoch, whose announcement may be to come."""
        announced = {fields[b"name"].decode() for _, fields in self._client.xrange(self._stream)}
        for folder in self._directory.glob("*-*"):
            if folder.name not in announced and int(folder.name.rpartition("-")[2]) <= epoch:
                shutil.rmtree(folder, ignore_errors=True)


def verify(published: Published) -> None:
    """Raises BrokerError unless the folder is there and whole, and holds tensors and their description only."""
    try:
        odd = [file.name for file in published.path.iterdir() if not _is_expected(file)]
        if odd:
            raise BrokerError(f"version {published.version} at {published.path} holds {odd[0]!r}, which is no weights")
        found = checksum(published.path)
    except OSError as error:
        raise BrokerError(f"version {published.version} is not at {published.path}: {error}") from error
    if found != published.digest:
        raise BrokerError(f"version {published.version} at {published.path} is damaged (its checksum differs)")


def _is_expected(file: Path) -> bool:
    named = file.suffix == ".safetensors" or file.name == "adapter_config.json"
    return named and file.is_file() and not file.is_symlink()


def checksum(folder: Path) -> int:
    """CRC-32 over the folder's files in the order of their names."""
    value = 0
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                value = zlib.crc32(chunk, value)
    return value


def flush(folder: Path) -> None:
    """Make a folder of files durable."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
