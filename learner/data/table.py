"""Stored rows by their number: files, folders of files, data sets of the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...broker.errors import ConfigError
from .config import HUB, KINDS, kind_of
from .rows import Row, nearest
from .shape import Shape

SAVED = ("state.json", "dataset_dict.json")
"""What save_to_disk leaves in a folder, of one data set or of several splits."""


class Table(Protocol):
    """Rows as they are stored, of which only where they are is kept in memory. Opening it checks what can be checked."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Row:
        """The row of that number, from 0."""

    def where(self, number: int) -> str:
        """Where that row is, for messages."""

    def column(self, name: str) -> Iterator[Any]:
        """The values of a column, of all rows in order; None where a row lacks it."""


class Joined:
    """Several tables, one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = np.cumsum([len(table) for table in tables])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Row:
        table, own = self._found(number)
        return table[own]

    def where(self, number: int) -> str:
        table, own = self._found(number)
        return table.where(own)

    def column(self, name: str) -> Iterator[Any]:
        for table in self._tables:
            yield from table.column(name)

    def _found(self, number: int) -> tuple[Table, int]:
        index = int(np.searchsorted(self._ends, number, side="right"))
        return self._tables[index], number - int(self._ends[index]) + len(self._tables[index])


def open_table(key: str, source: str, shape: Shape, *, subset: str | None, split: str) -> Table:
    """The rows that `source` names, each checked to have the shape as far as that is cheap. Raises ConfigError."""
    if source.startswith(HUB):
        from .hub import Hub

        return Hub(key, source.removeprefix(HUB), shape, subset=subset, split=split)
    path = Path(source)
    if path.is_dir():
        files = _files_in(path)
        if not files:
            raise ConfigError(
                f"{key}: {path} has no {', '.join(KINDS)} file; a folder that `datasets` has saved is named {HUB}{path}"
            )
        return Joined([_open_file(key, each, shape) for each in files])
    if not path.is_file():
        siblings = [each.name for each in path.parent.glob("*") if kind_of(each)]
        raise ConfigError(f"{key}: there is no file {path} (seen from {Path.cwd()}){nearest(path.name, siblings)}")
    return _open_file(key, path, shape)


def origins(source: str, *, subset: str | None, split: str) -> frozenset[str]:
    """What the rows of a source are read from: files, or a split of hf:; nothing for rows that are made.

    Sources that have one in common have rows in common.
    """
    if source.startswith(HUB):
        return frozenset({_split_of(source.removeprefix(HUB), subset, split)})
    path = Path(source)
    if kind_of(path) is None and "/" not in source:
        return frozenset()
    return frozenset(str(each.resolve()) for each in (_files_in(path) if path.is_dir() else [path]))


def _split_of(name: str, subset: str | None, split: str) -> str:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return f"{HUB}{name}, {subset}, {split}"
    alone, several = ((folder / file).is_file() for file in SAVED)  # neither has subsets, and the first no splits
    read = () if alone else (split,) if several else (subset, split)
    return ", ".join([f"{HUB}{folder.resolve()}", *map(str, read)])


def _files_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if kind_of(each) and not each.name.startswith("."))


def _open_file(key: str, path: Path, shape: Shape) -> Table:
    if kind_of(path) is None:
        raise ConfigError(f"{key}: {path} is no {', '.join(KINDS)} file by its name")
    if kind_of(path) == ".parquet":
        from .parquet import Parquet

        return Parquet(key, path, shape)
    from .lines import Lines

    return Lines(key, path, shape)
