"""Files of JSON lines, compressed or not."""

import gzip
import json
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...broker.errors import ConfigError
from .rows import Row
from .shape import Shape


class Lines:
    """The rows of a .jsonl file, all checked once at the start; only where each one begins is kept in memory.

    Of a .jsonl.gz file, in which nothing can be found without reading all before it, an unpacked copy lies among the
    temporary files as long as the process lives.
    """

    def __init__(self, key: str, path: Path, shape: Shape) -> None:
        self._path = path
        self._copy: IO[bytes] | None = None
        self._copy_lock = threading.Lock()
        if path.suffix == ".gz":
            self._copy = _unpacked(key, path)
            weakref.finalize(self, self._copy.close)
        self._starts, self._numbers = self._scan(key, shape)

    def _scan(self, key: str, shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Where rows begin, and the numbers of their lines if some are blank."""
        starts, numbers, end, number = [], [], 0, 0
        with self._opened() as file:
            for number, line in enumerate(file, start=1):
                start, end = end, end + len(line)
                if line.strip():
                    where = f"{key}: {self._path}, line {number}"
                    shape(_parse(line, where), where)
                    starts.append(start)
                    numbers.append(number)
        if not starts:
            raise ConfigError(f"{key}: {self._path} has no rows")
        return np.array(starts, np.int64), None if number == len(starts) else np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Row:
        with self._opened() as file:
            file.seek(int(self._starts[number]))
            line = file.readline()
        return _parse(line, self.where(number))

    def where(self, number: int) -> str:
        line = number + 1 if self._numbers is None else self._numbers[number]
        return f"{self._path}, line {line}"

    def column(self, name: str) -> Iterator[Any]:
        with self._opened() as file:
            for line in file:
                if line.strip():
                    yield _parse(line, f"{self._path}").get(name)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self._copy is None:
            with self._path.open("rb") as file:
                yield file
        else:
            with self._copy_lock:
                self._copy.seek(0)
                yield self._copy


def _unpacked(key: str, path: Path) -> IO[bytes]:
    copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the table)
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, copy)
    except (EOFError, OSError, zlib.error) as error:
        copy.close()
        raise ConfigError(f"{key}: {path} cannot be unpacked ({error})") from error
    return copy


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a {type(row).__name__}, where a row {{column: value}} is wanted")
    return row
