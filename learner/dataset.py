"""Rows to train on, in an order fixed by the seed, and rows held out to evaluate on."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from ..broker.errors import ConfigError
from .data.classes import DIGITS, Classes
from .data.config import HUB, KINDS, DatasetConfig, PartConfig, kind_of
from .data.generated import Generated, ProblemMaker
from .data.held_out import HeldOut, held_out
from .data.mixture import Mixture, Pattern
from .data.rows import Row, Rows, nearest
from .data.stored import Stored, eval_table, rows_from
from .problems import PROBLEMS

GYM = "reasoning_gym:"


class Dataset:
    """The rows that a configuration names.

    The row at a position never changes, so a position is all that a resumed run needs to know.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self._rows = _mixture(config) if config.mixture else _only(config)
        self._eval_rows = self._rows.eval_rows()

    def train_row(self, position: int) -> Row:
        """The row issued at this position (from 0, without end); never one that is held out by this data set."""
        return self._rows.train_row(position)

    def epoch(self, position: int) -> int:
        """How often every row that could be issued has been before this position; 0 throughout where rows never come again."""
        return self._rows.epoch(position)

    @property
    def num_rows(self) -> int | None:
        """The rows of an epoch; None where rows never come again."""
        return self._rows.num_rows

    def identity(self, position: int) -> int:
        """The number of the row issued at this position: the same whenever it comes again."""
        return self._rows.identity(position)

    def eval_rows(self) -> list[Row]:
        """The held-out rows: the same ones, in the same order, every time."""
        return list(self._eval_rows)


class _Elsewhere:
    """Rows of which those held out are somewhere else."""

    def __init__(self, rows: Rows, eval_rows: list[Row]) -> None:
        self._eval_rows = eval_rows
        self.num_rows = rows.num_rows
        self.train_row, self.identity, self.epoch = rows.train_row, rows.identity, rows.epoch

    def eval_rows(self) -> list[Row]:
        return self._eval_rows


def _only(config: DatasetConfig) -> Rows:
    [part] = config.parts
    [held] = held_out([part], ["dataset"], [config.eval_size])
    return _part(part, "dataset", config.seed, held)


def _mixture(config: DatasetConfig) -> Rows:
    """The parts by weight; the held-out rows are shared out as the first positions are."""
    names = [part.known_as for part in config.mixture]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"dataset.mixture: two parts are called {repeated[0]}; give each a name of its own")
    pattern = Pattern([Fraction(str(part.weight)) for part in config.mixture])
    keys = [f"dataset.mixture[{index}]" for index in range(len(names))]
    held = held_out(config.mixture, keys, pattern.counts(config.eval_size))
    parts = [_part(part, key, config.seed, own) for part, key, own in zip(config.mixture, keys, held, strict=True)]
    return Mixture(pattern, names, parts)


def _part(part: PartConfig, key: str, seed: int, held: HeldOut) -> Rows:
    """The rows of one source. `key` is where it is configured, for messages."""
    elsewhere = eval_table(part, key)
    rows = _train(part, key, seed, replace(held, count=0) if elsewhere else held)
    if elsewhere is None:
        return rows
    source = part.eval_source or f"{part.source}, split {part.eval_split}"
    return _Elsewhere(rows, rows_from(*elsewhere, held, source))


def _train(part: PartConfig, key: str, seed: int, held: HeldOut) -> Rows:
    if part.source.startswith(GYM):
        return _gym(part, key, seed, held)
    if part.source in PROBLEMS:
        return Generated(ProblemMaker(part.source, part.kwargs, key), part, key, seed=seed, held_out=held)
    if part.kwargs:
        raise ConfigError(f"{key}.kwargs: they are for rows made on the fly, and {part.source} are stored ones")
    if part.source == DIGITS:
        return Classes(10, part, key, seed=seed, held_out=held.count)
    if not (part.source.startswith(HUB) or kind_of(Path(part.source)) or "/" in part.source):
        known = [*PROBLEMS, DIGITS]
        raise ConfigError(
            f"{key}.source: {part.source!r} is neither a {', '.join(KINDS)} file, a folder of such (./rows), {HUB}NAME, {GYM}TASK nor "
            f"one of {', '.join(known)}{nearest(part.source, known)}"
        )
    return Stored(part, key, seed=seed, held_out=held)


def _gym(part: PartConfig, key: str, seed: int, held: HeldOut) -> Rows:
    """The rows of a task of reasoning_gym, or of several of them in turn."""
    from .data.gym import GymMaker, tasks_of

    tasks = tasks_of(part.source.removeprefix(GYM), part.kwargs, f"{key}.source")
    pattern = Pattern([Fraction(1)] * len(tasks))
    parts = []
    for task, share in zip(tasks, pattern.counts(held.count), strict=True):
        maker = GymMaker(task, part.kwargs, f"{key}.kwargs")
        parts.append(Generated(maker, part, key, seed=seed, held_out=replace(held, count=share)))
    return parts[0] if len(parts) == 1 else Mixture(pattern, [f"{GYM}{task}" for task in tasks], parts)
