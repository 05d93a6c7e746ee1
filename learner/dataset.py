"""Rows to train on, in an order fixed by the seed, and rows held out to evaluate on."""

import difflib
import json
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..broker.errors import ConfigError
from .config import DatasetConfig
from .problems import PROBLEMS, Problem

Row = dict[str, Any]


class _Source(Protocol):
    @property
    def num_rows(self) -> int | None: ...

    def train_row(self, position: int) -> Row: ...

    def identity(self, position: int) -> int: ...

    def eval_rows(self) -> list[Row]: ...


class Dataset:
    """The rows that a configuration names.

    The row at a position never changes, so a position is all that a resumed run needs to know.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self._source: _Source
        if config.source in PROBLEMS:
            self._source = _Generated(config.source, PROBLEMS[config.source], config)
        else:
            self._source = _Stored(config)
        self._eval_rows = self._source.eval_rows()
        if config.eval_source is not None:
            self._eval_rows = _eval_file(config.eval_source, config.eval_size)

    def train_row(self, position: int) -> Row:
        """The row issued at this position (from 0, without end); never one that is held out by this data set."""
        return self._source.train_row(position)

    def epoch(self, position: int) -> int:
        """How often every row has been issued before this position; 0 throughout where rows never come again."""
        return 0 if self._source.num_rows is None else position // self._source.num_rows

    @property
    def num_rows(self) -> int | None:
        """The rows of an epoch; None where rows never come again."""
        return self._source.num_rows

    def identity(self, position: int) -> int:
        """The number of the row issued at this position: the same in every epoch."""
        return self._source.identity(position)

    def eval_rows(self) -> list[Row]:
        """The held-out rows: the same ones, in the same order, every time."""
        return list(self._eval_rows)


class _Generated:
    """A synthetic problem. The held-out rows depend on their number alone, so runs of different seeds share them."""

    def __init__(self, name: str, problem: Problem, config: DatasetConfig) -> None:
        wanted = 0 if config.eval_source is not None else config.eval_size
        if 2 * wanted > problem.num_rows:
            raise ConfigError(
                f"dataset.eval_size: {wanted} rows cannot be held out of the {problem.num_rows} that {name} has; "
                f"at most half of them can ({problem.num_rows // 2})"
            )
        self._name, self._problem, self._seed = name, problem, config.seed
        self._eval: dict[str, Row] = {}
        rng = Random(f"{name}:held out")
        while len(self._eval) < wanted:
            row = problem.row(rng)
            self._eval.setdefault(row["prompt"], dict(row))

    num_rows = None

    def train_row(self, position: int) -> Row:
        rng = Random(f"{self._name}:{self._seed}:{position}")
        row = self._problem.row(rng)
        while row["prompt"] in self._eval:
            row = self._problem.row(rng)
        return dict(row)

    def identity(self, position: int) -> int:
        return position

    def eval_rows(self) -> list[Row]:
        return list(self._eval.values())


class _Stored:
    """A .jsonl file: every epoch is a permutation of its own; the last rows are held out unless they have a file."""

    def __init__(self, config: DatasetConfig) -> None:
        self._lines = _Lines("dataset.source", config.source)
        self._seed = config.seed
        held_out = 0 if config.eval_source is not None else config.eval_size
        self.num_rows = len(self._lines) - held_out
        if self.num_rows < 1:
            raise ConfigError(
                f"dataset.eval_size: {held_out} rows cannot be held out of the {len(self._lines)} in {config.source}; "
                f"take fewer, or name a file in dataset.eval_source"
            )
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def train_row(self, position: int) -> Row:
        return self._lines[self.identity(position)]

    def identity(self, position: int) -> int:
        epoch, place = divmod(position, self.num_rows)
        order = self._order
        if order is None or order[0] != epoch:
            order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self.num_rows))
            self._order = order
        return int(order[1][place])

    def eval_rows(self) -> list[Row]:
        return [self._lines[index] for index in range(self.num_rows, len(self._lines))]


class _Lines:
    """The rows of a .jsonl file, all checked once at the start; only where each one begins is kept in memory."""

    def __init__(self, key: str, source: str) -> None:
        self._path = Path(source)
        if self._path.suffix != ".jsonl":
            close = difflib.get_close_matches(source, PROBLEMS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"{key}: {source!r} is neither a .jsonl file nor one of {', '.join(PROBLEMS)}{hint}")
        if not self._path.is_file():
            raise ConfigError(f"{key}: there is no file {self._path} (seen from {Path.cwd()})")
        self._starts = self._scan(key)

    def _scan(self, key: str) -> NDArray[np.int64]:
        starts, end = [], 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start, end = end, end + len(line)
                if line.strip():
                    _parse(line, f"{key}: {self._path}, line {number}")
                    starts.append(start)
        if not starts:
            raise ConfigError(f"{key}: {self._path} has no rows")
        return np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        with self._path.open("rb") as file:
            file.seek(int(self._starts[index]))
            return _parse(file.readline(), f"{self._path}, row {index}")


def _eval_file(source: str, eval_size: int) -> list[Row]:
    lines = _Lines("dataset.eval_source", source)
    if eval_size > len(lines):
        raise ConfigError(f"dataset.eval_size: {eval_size} rows wanted, but {source} has {len(lines)}")
    return [lines[index] for index in range(eval_size)]


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a {type(row).__name__}, where a row {{column: value}} is wanted")
    if "messages" not in row and "prompt" not in row:
        raise ConfigError(f"{where}: a row needs `prompt` or `messages`; its columns are {', '.join(row) or 'none'}")
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise ConfigError(f"{where}: `prompt` must be text, not {type(row['prompt']).__name__}")
    if "messages" in row and not _are_messages(row["messages"]):
        raise ConfigError(f"{where}: `messages` must be a list of {{role: text, content: text}}")
    return row


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in value)
    )
