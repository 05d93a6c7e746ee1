"""What a source of rows is, whatever they are read from or made by."""

import difflib
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
"""JSON values by the names of their columns; a prompt is one with `messages` or `prompt`."""


class Rows(Protocol):
    """Rows by position. The row at a position never changes, so a position is all that a resumed run needs to know."""

    @property
    def num_rows(self) -> int | None:
        """The rows of an epoch; None where rows never come again."""

    def train_row(self, position: int) -> Row:
        """The row issued at this position (from 0, without end); never one that is held out."""

    def identity(self, position: int) -> int:
        """The number of that row: the same whenever it comes again."""

    def epoch(self, position: int) -> int:
        """How often every row that could come has come before this position; 0 throughout where rows never come again."""

    def eval_rows(self) -> list[Row]:
        """The held-out rows: the same ones, in the same order, every time."""


class Shuffle:
    """Permutations of `count` numbers that follow from a seed and the number of each."""

    def __init__(self, count: int, *seed: int) -> None:
        self.count = count
        self._seed = seed
        self._newest: tuple[int, NDArray[np.int64]] | None = None

    def __call__(self, number: int, place: int) -> int:
        """What is at this place of that permutation; the newest one is kept."""
        newest = self._newest
        if newest is None or newest[0] != number:
            newest = (number, np.random.default_rng([*self._seed, number]).permutation(self.count))
            self._newest = newest
        return int(newest[1][place])


def nearest(wanted: str, known: Iterable[str]) -> str:
    """The tail of a message: `(did you mean …?)` where a known name is near, else nothing."""
    close = difflib.get_close_matches(wanted, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
