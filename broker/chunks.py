"""Folders of weights through Redis, in chunks: for adapters and small models, and workers that share no disk.

A folder is one hash: "files" lists its files with their sizes, and "i.j" is the j-th chunk of the i-th file. It is deleted
in one step, so that a reader finds a chunk or knows that the folder is gone. A set names every folder that was begun.
"""

import json
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import redis

from .client import Client
from .errors import BrokerError, CodecError
from .folder import FILE_NAME, checksum, verify, weight_files
from .keys import Keys
from .scratch import Scratch
from .transport import NAME, Write, epoch_of

MAX_CHUNK_BYTES = 4 * 2**20
CHUNKS_AT_ONCE = 4
"""Sent or asked for together; no more of a folder is ever in memory."""

MAX_FILES = 1000
MAX_BYTES = 64 * 2**30
MAX_LISTING_BYTES = 2**18
LISTING = "files"
FETCH_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Contents:
    """What the hash says of its folder: names and sizes of the files, in order, cut every `chunk_bytes`."""

    files: tuple[tuple[str, int], ...]
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk belongs: `size` bytes at `offset` of `file`."""

    field: str
    file: str
    offset: int
    size: int


class RedisChunks:
    """Sends folders in chunks and puts them together again in a folder of this process.

    Of the folders that were put, the last stays there for `restore`; of those that were fetched, the last two: the one
    being loaded, and the one on its way.
    """

    def __init__(self, client: Client, run: str, *, chunk_bytes: int = MAX_CHUNK_BYTES) -> None:
        self._client: Any = client
        self._where = client.patience.where
        self._keys = Keys(run)
        self._chunk_bytes = chunk_bytes
        self._lock = threading.Lock()
        self._scratch: Scratch | None = None
        self._fetched: list[Path] = []

    def put(self, name: str, write: Write) -> int:
        for old in self._folder().glob("put-*"):
            shutil.rmtree(old, ignore_errors=True)
        folder = self._folder() / f"put-{name}"
        folder.mkdir()
        write(folder)
        self._send(name, folder)
        return checksum(folder)

    def restore(self, name: str, digest: int) -> None:
        folder = self._folder() / f"put-{name}"
        verify(folder, digest)
        self._send(name, folder)

    def fetch(self, name: str, digest: int) -> Path:
        with self._lock:
            folder = self._folder() / name
            if not _is_whole(folder, digest):
                aside = self._folder() / f"partial-{uuid.uuid4().hex}"
                aside.mkdir()
                try:
                    self._receive(name, digest, aside)
                    aside.rename(folder)
                except OSError as error:
                    raise BrokerError(f"weights {name} cannot be written to {aside}: {error}") from error
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
            self._fetched = [*(path for path in self._fetched if path != folder), folder]
            while len(self._fetched) > 2:
                shutil.rmtree(self._fetched.pop(0), ignore_errors=True)
            return folder

    def forget(self, announced: set[str], *, epoch: int) -> None:
        stored = {name.decode(errors="replace") for name in self._client.smembers(self._keys.weights_stored)}
        for name in stored - announced:
            if NAME.fullmatch(name) and epoch_of(name) <= epoch:
                self._run([("UNLINK", self._keys.weights_of(name)), ("SREM", self._keys.weights_stored, name)])

    def _folder(self) -> Path:
        self._scratch = self._scratch or Scratch()
        return self._scratch.path

    def _send(self, name: str, folder: Path) -> None:
        """Replace what may be there under the name; the name is noted before, and again with, all that bears it."""
        files = weight_files(folder)
        contents = Contents(tuple((file.name, file.stat().st_size) for file in files), self._chunk_bytes)
        key, note = self._keys.weights_of(name), ("SADD", self._keys.weights_stored, name)
        self._run([note, ("UNLINK", key), ("HSET", key, LISTING, _encoded(contents))])
        for chunks in _few_at_once(_chunks(contents)):
            self._run([note, *(("HSET", key, chunk.field, _read(folder, chunk)) for chunk in chunks)])

    def _receive(self, name: str, digest: int, folder: Path) -> None:
        """Fill a folder with what is there under the name. Raises BrokerError unless it is whole."""
        deadline = time.monotonic() + FETCH_TIMEOUT_S
        key = self._keys.weights_of(name)
        (encoded,) = self._fields(key, [LISTING], max_bytes=MAX_LISTING_BYTES)
        found = 0
        contents = _decoded(encoded)
        for file, _ in contents.files:
            (folder / file).touch()
        for chunks in _few_at_once(_chunks(contents)):
            if time.monotonic() > deadline:
                raise BrokerError(f"weights {name} were not fetched from {self._where} within {FETCH_TIMEOUT_S:g} s")
            bodies = self._fields(key, [chunk.field for chunk in chunks], max_bytes=MAX_CHUNK_BYTES)
            for chunk, body in zip(chunks, bodies, strict=True):
                if len(body) != chunk.size:
                    raise CodecError(f"chunk {chunk.field} of weights {name} has {len(body)} bytes, not {chunk.size}")
                found = zlib.crc32(body, found)
            _append(folder, chunks, bodies)
        if found != digest:
            raise BrokerError(f"weights {name} in {self._where} are damaged (their checksum differs)")

    def _fields(self, key: str, fields: Sequence[str], *, max_bytes: int) -> list[bytes]:
        """Fields of a hash, none of them asked for before it is known not to be too large."""
        for field, size in zip(fields, self._run([("HSTRLEN", key, field) for field in fields]), strict=True):
            if size > max_bytes:
                raise CodecError(f"{field!r} of the weights at {key} has {size} bytes, more than {max_bytes}")
        bodies = self._run([("HGET", key, field) for field in fields])
        missing = [field for field, body in zip(fields, bodies, strict=True) if not body]
        if missing:
            raise BrokerError(f"{missing[0]!r} of the weights at {key} is not there, or not any more")
        return bodies

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands sent together, which must bear being sent again."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False)  # whose errors would quote the chunks
        refused = next((reply for reply in replies if isinstance(reply, redis.RedisError)), None)
        if refused is not None:
            raise BrokerError(f"{self._where} refused weights: {refused}") from refused
        return replies


def _chunks(contents: Contents) -> Iterator[Chunk]:
    for i, (file, size) in enumerate(contents.files):
        for j, offset in enumerate(range(0, size, contents.chunk_bytes)):
            yield Chunk(f"{i}.{j}", file, offset, min(contents.chunk_bytes, size - offset))


def _few_at_once(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    while batch := list(islice(chunks, CHUNKS_AT_ONCE)):
        yield batch


def _read(folder: Path, chunk: Chunk) -> bytes:
    with (folder / chunk.file).open("rb") as file:
        file.seek(chunk.offset)
        return file.read(chunk.size)


def _append(folder: Path, chunks: Sequence[Chunk], bodies: Sequence[bytes]) -> None:
    """Write chunks that follow each other, and all that came before."""
    pairs = zip(chunks, bodies, strict=True)
    for name, of_file in groupby(pairs, key=lambda pair: pair[0].file):
        with (folder / name).open("ab") as file:
            file.writelines(body for _, body in of_file)


def _is_whole(folder: Path, digest: int) -> bool:
    try:
        verify(folder, digest)
    except BrokerError:
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def _encoded(contents: Contents) -> bytes:
    return json.dumps({"files": contents.files, "chunk_bytes": contents.chunk_bytes}).encode()


def _decoded(encoded: bytes) -> Contents:
    """Raises CodecError unless it lists files that a folder of weights may hold, each once, in order, and not too much."""
    try:
        found = json.loads(encoded)
        files = [(name, size) for name, size in found["files"]]
        chunk_bytes = found["chunk_bytes"]
        if not all(_is_name(name) and _is_count(size) for name, size in files) or not _is_count(chunk_bytes):
            raise ValueError("it names what is no file of weights")
        names = [name for name, _ in files]
        if not 0 < len(names) <= MAX_FILES or names != sorted(set(names)):
            raise ValueError(f"it names {len(names)} files, not 1 to {MAX_FILES} different ones in order")
        total = sum(size for _, size in files)
        if total > MAX_BYTES or not 0 < chunk_bytes <= MAX_CHUNK_BYTES:
            raise ValueError(f"it speaks of {total} bytes in chunks of {chunk_bytes}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CodecError(f"the list of files of some weights is malformed: {error}: {encoded[:100]!r}") from error
    return Contents(tuple(files), chunk_bytes)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and FILE_NAME.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
