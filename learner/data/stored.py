"""Rows of a table in an order of the seed, as they are or easy ones first; and those of it that are held out."""

import math

import numpy as np
from numpy.typing import NDArray

from ...broker.errors import ConfigError
from .config import CurriculumConfig, PartConfig
from .held_out import HeldOut
from .rows import Row, Shuffle
from .schedule import Schedule
from .shape import Shape
from .table import Table, open_table


class Stored:
    """A table: every epoch is a permutation of its own; the last rows are held out unless they are elsewhere."""

    def __init__(self, part: PartConfig, key: str, *, seed: int, held_out: HeldOut) -> None:
        self._shape = Shape(part, key)
        self._table = open_table(f"{key}.source", part.source, self._shape, subset=part.subset, split=part.split)
        self._held_out = held_out
        count = len(self._table) - held_out.tail
        if count < 1:
            raise ConfigError(
                f"dataset.eval_size: {held_out.tail} rows cannot be held out of the {len(self._table)} in {part.source}; "
                f"take fewer, or name a file in {key}.eval_source"
            )
        self._order: _Epochs | _Stages = _Epochs(count, seed)
        if part.curriculum is not None:
            self._order = _Stages(part.curriculum, self._difficulties(part.curriculum, key, count), key, seed)
        self.num_rows = self._order.count

    def train_row(self, position: int) -> Row:
        return shaped(self._table, self.identity(position), self._shape)

    def identity(self, position: int) -> int:
        return self._order.row(position)

    def epoch(self, position: int) -> int:
        return self._order.epoch(position)

    def eval_rows(self) -> list[Row]:
        first = len(self._table) - self._held_out.tail + self._held_out.begin
        return [shaped(self._table, number, self._shape) for number in range(first, first + self._held_out.count)]

    def _difficulties(self, config: CurriculumConfig, key: str, count: int) -> NDArray[np.float64]:
        found = []
        for number, value in zip(range(count), self._table.column(config.column), strict=False):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(
                    f"{self._table.where(number)}: the difficulty (column {config.column}) is {value!r:.100}, and a number "
                    f"is wanted: see {key}.curriculum.column"
                )
            found.append(float(value))
        return np.array(found)


class _Epochs:
    """Numbers from 0 to count: permutation after permutation."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._shuffle = Shuffle(count, seed)

    def row(self, position: int) -> int:
        return self._shuffle(*divmod(position, self.count))

    def epoch(self, position: int) -> int:
        return position // self.count


class _Stages:
    """Permutation after permutation of those easy enough, of which there are more in each stage."""

    def __init__(self, config: CurriculumConfig, difficulties: NDArray[np.float64], key: str, seed: int) -> None:
        self._by_difficulty = np.argsort(difficulties, kind="stable")
        hardest = float(difficulties.max()) if config.end is None else config.end
        self._schedule = Schedule(config, hardest)
        admitted = [self._schedule.at_stage(stage) for stage in range(config.steps + 1)]
        self._counts = np.searchsorted(difficulties[self._by_difficulty], admitted, side="right")
        if self._counts[0] == 0:
            raise ConfigError(
                f"{key}.curriculum.start: no row has a difficulty of {config.start:g} or less; the easiest has "
                f"{difficulties.min():g}"
            )
        if hardest < config.start:
            raise ConfigError(
                f"{key}.curriculum.start: {config.start:g} is more than the greatest difficulty, {hardest:g}"
            )
        self.count = int(self._counts[-1])
        self._seed = seed
        self._newest = (0, self._shuffle(0))
        lengths = [self._schedule.begin(stage + 1) - self._schedule.begin(stage) for stage in range(config.steps)]
        self._epochs = np.cumsum([0, *(-(-n // int(c)) for n, c in zip(lengths, self._counts, strict=False))])

    def row(self, position: int) -> int:
        stage, epoch, place = self._place(position)
        if self._newest[0] != stage:
            self._newest = (stage, self._shuffle(stage))
        return int(self._by_difficulty[self._newest[1](epoch, place)])

    def epoch(self, position: int) -> int:
        stage, epoch, _ = self._place(position)
        return int(self._epochs[stage]) + epoch

    def _shuffle(self, stage: int) -> Shuffle:
        return Shuffle(int(self._counts[stage]), self._seed, stage)

    def _place(self, position: int) -> tuple[int, int, int]:
        stage = self._schedule.stage(position)
        epoch, place = divmod(position - self._schedule.begin(stage), int(self._counts[stage]))
        return stage, epoch, place


def shaped(table: Table, number: int, shape: Shape) -> Row:
    """A row of a table as a prompt's row."""
    return shape(table[number], table.where(number))


def eval_table(part: PartConfig, key: str) -> tuple[Table, Shape] | None:
    """Where the held-out rows are, if they are elsewhere. Raises ConfigError."""
    if part.elsewhere is None and part.eval_split is not None:
        raise ConfigError(f"{key}.eval_split: {part.source} has no splits; name a file in {key}.eval_source")
    if part.elsewhere is None:
        return None
    source, split = part.elsewhere
    shape = Shape(part.model_copy(update={"curriculum": None}), key)
    return open_table(f"{key}.eval_source", source, shape, subset=part.subset, split=split), shape


def rows_from(table: Table, shape: Shape, held_out: HeldOut, source: str) -> list[Row]:
    """The rows of a table to evaluate on; after its last one come its first. Raises ConfigError if it has too few."""
    if held_out.count > len(table):
        raise ConfigError(f"dataset.eval_size: {held_out.count} rows wanted, but {source} has {len(table)}")
    numbers = range(held_out.begin, held_out.begin + held_out.count)
    return [shaped(table, number % len(table), shape) for number in numbers]
