"""Parquet files, read a group of rows at a time."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...broker.errors import ConfigError
from .rows import Row
from .shape import Shape

CACHED_BYTES = 256 * 2**20
"""Of the groups that are kept in memory; the newest is whatever its size."""


class Parquet:
    """The rows of a .parquet file. Its columns and its first row are checked at the start, the others as they are read."""

    def __init__(self, key: str, path: Path, shape: Shape) -> None:
        self._path = path
        with self._open(key) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            self._columns = shape.needed(list(file.schema_arrow.names))
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self._cached: OrderedDict[int, Any] = OrderedDict()
        if len(self) == 0:
            raise ConfigError(f"{key}: {path} has no rows")
        shape(self[0], f"{key}: {self.where(0)}")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> Row:
        index = int(np.searchsorted(self._ends, number, side="right"))
        group = self._group(index)
        place = number - int(self._ends[index]) + group.num_rows
        row: Row = group.slice(place, 1).to_pylist()[0]
        return row

    def where(self, number: int) -> str:
        return f"{self._path}, row {number}"

    def column(self, name: str) -> Iterator[Any]:
        with self._open("dataset.source") as file:
            names = [name] if name in file.schema_arrow.names else []
            for index in range(len(self._ends)):
                group = file.read_row_group(index, columns=names)
                yield from group.column(name).to_pylist() if names else [None] * group.num_rows

    def _group(self, index: int) -> Any:
        if index in self._cached:
            self._cached.move_to_end(index)
            return self._cached[index]
        with self._open("dataset.source") as file:
            group = self._cached[index] = file.read_row_group(index, columns=self._columns)
        while len(self._cached) > 1 and sum(each.nbytes for each in self._cached.values()) > CACHED_BYTES:
            self._cached.popitem(last=False)
        return group

    def _open(self, key: str) -> Any:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise ConfigError(f"{key}: {self._path} needs the package pyarrow: pip install 'areal-rl[data]'") from error
        try:
            return ParquetFile(self._path)
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(f"{key}: {self._path} is no Parquet file ({error})") from error
