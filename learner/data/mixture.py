"""Several sources as one, by weight."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

from ...broker.errors import ConfigError
from .rows import Row, Rows

MAX_PERIOD = 20_000


class Pattern:
    """Which part a position belongs to. After any number of positions each part has had its share, to less than one row.

    The order repeats after `period` positions, the least number in which all shares are whole. Within it at each place n of
    those parts that have had too little, x < n·w − 1/(2K − 2) with w the share, that one is next which would be the first
    to have too little by 1 (Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980: |x − n·w| stays
    within 1 − 1/(2K − 2) for K parts).
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        shares = [weight / sum(weights) for weight in weights]
        self.period = lcm(*(share.denominator for share in shares))
        if self.period > MAX_PERIOD:
            raise ConfigError(
                f"dataset.mixture: with the weights {', '.join(f'{float(weight):g}' for weight in weights)} shares are whole "
                f"numbers only of {self.period} rows, more than {MAX_PERIOD}; take rounder ones"
            )
        self._own: list[list[int]] = [[] for _ in weights]  # the places of each part within a period
        self._parts = _assigned([int(share * self.period) for share in shares])
        self._ranks = []
        for place, part in enumerate(self._parts):
            self._ranks.append(len(self._own[part]))
            self._own[part].append(place)

    def part(self, position: int) -> tuple[int, int]:
        """The part at a position, and the position within that part."""
        period, place = divmod(position, self.period)
        part = self._parts[place]
        return part, period * len(self._own[part]) + self._ranks[place]

    def counts(self, positions: int) -> list[int]:
        """How many of the first positions each part has."""
        periods, rest = divmod(positions, self.period)
        return [periods * len(own) + bisect_left(own, rest) for own in self._own]

    def after(self, part: int, count: int) -> int:
        """The number of positions in which a part has so many (1 or more)."""
        periods, rest = divmod(count - 1, len(self._own[part]))
        return periods * self.period + self._own[part][rest] + 1


def _assigned(shares: Sequence[int]) -> list[int]:
    """The part at each place of a period, in which each has its share."""
    period, slack = sum(shares), 2 * max(len(shares), 2) - 2
    counts, parts = [0] * len(shares), []
    for place in range(1, period + 1):
        # all of it multiplied by period · slack, to be whole
        lacks = [slack * (place * share - period * count) for share, count in zip(shares, counts, strict=True)]
        due = [part for part, lack in enumerate(lacks) if lack >= period]
        part = min(due, key=lambda each: Fraction(period * slack - period - lacks[each], shares[each]))
        counts[part] += 1
        parts.append(part)
    return parts


class Mixture:
    """Each part at its own positions, with its own epochs and order. A row says in `source` which part it is of."""

    def __init__(self, pattern: Pattern, names: Sequence[str], parts: Sequence[Rows]) -> None:
        self._pattern, self._names, self._parts = pattern, names, parts

    @property
    def num_rows(self) -> int | None:
        """In so many positions every row of every part comes; None where rows of a part never come again."""
        longest = 0
        for index, part in enumerate(self._parts):
            if part.num_rows is None:
                return None
            longest = max(longest, self._pattern.after(index, part.num_rows))
        return longest

    def train_row(self, position: int) -> Row:
        index, own = self._pattern.part(position)
        return {**self._parts[index].train_row(own), "source": self._names[index]}

    def identity(self, position: int) -> int:
        index, own = self._pattern.part(position)
        return self._parts[index].identity(own) * len(self._parts) + index

    def epoch(self, position: int) -> int:
        """That of the part whose row comes here."""
        index, own = self._pattern.part(position)
        return self._parts[index].epoch(own)

    def eval_rows(self) -> list[Row]:
        named = zip(self._names, self._parts, strict=True)
        return [{**row, "source": name} for name, part in named for row in part.eval_rows()]
