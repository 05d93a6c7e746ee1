"""Rows that are made on the fly: each from the seed, its position, and its level where they grow harder."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol

from ...broker.errors import ConfigError
from ..problems import MAKERS, PROBLEMS, Problem
from .config import CurriculumConfig, PartConfig
from .held_out import HeldOut
from .rows import Row, nearest
from .schedule import Schedule
from .shape import Shape

MAX_DRAWS = 10_000
"""Of rows that are held out, or that were drawn before, until another comes."""


class Maker(Protocol):
    """What makes rows. Of each kind it makes a sequence without end, of which the first that is fit is taken."""

    name: str
    num_rows: int | None
    """How many different ones there are (at least), if that is known."""

    def key(self, row: Row, level: int | None) -> str:
        """What it shares with the rows that are the same problem, however they are put."""

    def require_level(self, level: int, key: str) -> None:
        """Raises ConfigError for a level that there is not."""

    def train_rows(self, seed: int, position: int, level: int | None) -> Iterator[Row]:
        """Those for a position; `level` is None where the options alone say how hard they are."""

    def held_out_rows(self, level: int | None) -> Iterator[Row]:
        """Those to hold out. They follow from name, options and level alone, so runs of different seeds share them."""


class Generated:
    """Rows of a maker. With a curriculum the level of each is drawn from those that are admitted at its position.

    Of the held-out rows every level from start to end has as many.
    """

    num_rows = None

    def __init__(self, maker: Maker, part: PartConfig, key: str, *, seed: int, held_out: HeldOut) -> None:
        self._maker, self._shape, self._seed = maker, Shape(part, key), seed
        self._levels = None if part.curriculum is None else _Levels(part.curriculum, maker, key)
        if maker.num_rows is not None and 2 * held_out.count > maker.num_rows:
            raise ConfigError(
                f"dataset.eval_size: {held_out.count} rows cannot be held out of the {maker.num_rows} that {maker.name} has; "
                f"at most half of them can ({maker.num_rows // 2})"
            )
        self._kept = held_out.kept
        self._eval: list[Row] = []
        levels = [None] if self._levels is None else self._levels.all
        drawn = [_leveled(maker.held_out_rows(level), level) for level in levels]
        while len(self._eval) < held_out.count:
            level = levels[len(self._eval) % len(levels)]
            row = self._first(drawn[len(self._eval) % len(levels)], level)
            self._kept |= self._names(row, level)
            self._eval.append(row)
        self.train_row(0)  # what is wrong with the options, columns or template is said now

    def train_row(self, position: int) -> Row:
        level = None if self._levels is None else self._levels.at(position, self._seed)
        row = self._first(_leveled(self._maker.train_rows(self._seed, position, level), level), level)
        return self._shape(row, f"{self._maker.name}, position {position}")

    def identity(self, position: int) -> int:
        return position

    def epoch(self, position: int) -> int:
        return 0

    def eval_rows(self) -> list[Row]:
        return [self._shape(row, f"{self._maker.name}, held out") for row in self._eval]

    def _names(self, row: Row, level: int | None) -> set[tuple[str, str]]:
        """What a row is told apart by: its prompt, and the key of its problem."""
        return {(self._maker.name, row["prompt"]), (self._maker.name, self._maker.key(row, level))}

    def _first(self, rows: Iterator[Row], level: int | None) -> Row:
        """The first that no part of the data set holds out."""
        for _, row in zip(range(MAX_DRAWS), rows, strict=False):
            if self._kept.isdisjoint(self._names(row, level)):
                return row
        raise ConfigError(
            f"dataset.eval_size: {len(self._eval)} rows of {self._maker.name} are held out, and {MAX_DRAWS} draws made no "
            "other one; hold out fewer"
        )


class _Levels:
    """Which levels are admitted where."""

    def __init__(self, config: CurriculumConfig, maker: Maker, key: str) -> None:
        where = f"{key}.curriculum"
        if config.end is None:
            raise ConfigError(f"{where}.end is missing: rows of {maker.name} are made on the fly, of any level")
        for name, value in (("start", config.start), ("end", config.end)):
            if not value.is_integer():
                raise ConfigError(f"{where}.{name}: {value:g}; levels of {maker.name} are whole numbers")
            maker.require_level(int(value), f"{where}.{name}")
        self.all = range(int(config.start), int(config.end) + 1)
        self._schedule = Schedule(config, config.end)

    def at(self, position: int, seed: int) -> int:
        greatest = int(self._schedule.at_stage(self._schedule.stage(position)))
        return Random(f"level:{seed}:{position}").randint(self.all[0], greatest)


def _leveled(rows: Iterator[Row], level: int | None) -> Iterator[Row]:
    return (row if level is None else {**row, "difficulty": level} for row in rows)


class ProblemMaker:
    """The synthetic problems (problems.py)."""

    def __init__(self, name: str, kwargs: dict[str, Any], key: str) -> None:
        self.name, self._key, self._kwargs = name, key, kwargs
        self._of_level: dict[int | None, Problem] = {}
        self.num_rows: int | None = self._problem(None).num_rows

    def key(self, row: Row, level: int | None) -> str:
        return self._problem(level).key(row)

    def require_level(self, level: int, key: str) -> None:
        if self.name not in MAKERS:
            raise ConfigError(f"{key}: {self.name} has no levels; {', '.join(MAKERS)} have")
        if MAKERS[self.name][1] in self._kwargs:
            raise ConfigError(f"{self._key}.kwargs.{MAKERS[self.name][1]} is what the curriculum sets; leave it out")
        self._problem(level)

    def train_rows(self, seed: int, position: int, level: int | None) -> Iterator[Row]:
        return self._drawn(Random(f"{self.name}:{seed}:{position}"), self._problem(level))

    def held_out_rows(self, level: int | None) -> Iterator[Row]:
        return self._drawn(Random(f"{self.name}:held out"), self._problem(level))

    def _drawn(self, rng: Random, problem: Problem) -> Iterator[Row]:
        while True:
            yield dict(problem.row(rng))

    def _problem(self, level: int | None) -> Problem:
        if level not in self._of_level:
            self._of_level[level] = _made(self.name, self._kwargs, level, f"{self._key}.kwargs")
        return self._of_level[level]


def _made(name: str, kwargs: dict[str, Any], level: int | None, key: str) -> Problem:
    if name not in MAKERS and kwargs:
        raise ConfigError(f"{key}: {name} has no options; {', '.join(MAKERS)} have")
    if not kwargs and level is None:
        return PROBLEMS[name]
    make, option = MAKERS[name]
    require_options(kwargs, make, f"{name} ({key})")
    try:
        return make(**kwargs | ({} if level is None else {option: level}))
    except ConfigError as error:
        raise ConfigError(f"{key.removesuffix('kwargs')}{error}") from error


def require_options(kwargs: dict[str, Any], make: Callable[..., Any], of: str) -> None:
    """Raises ConfigError for an option that `make` does not take."""
    known = [name for name in make.__kwdefaults__ or {}]
    for name in kwargs:
        if name not in known:
            raise ConfigError(f"{of} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}")
