"""Which prompts have been learned from: the memory that lets every group count exactly once."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet


class Ledger:
    """A set of positions kept as disjoint ranges, so that it stays small however long the run."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self._starts.append(start)
            self._ends.append(end)

    def __contains__(self, position: int) -> bool:
        index = bisect_right(self._starts, position) - 1
        return index >= 0 and position < self._ends[index]

    def __len__(self) -> int:
        return sum(end - start for start, end in self.ranges())

    def gaps(self, end: int) -> list[tuple[int, int]]:
        """The half-open ranges below `end` that are not in it, in order."""
        starts = [0, *self._ends]
        ends = [*self._starts, end]
        return [(start, min(stop, end)) for start, stop in zip(starts, ends, strict=True) if start < min(stop, end)]

    def missing(self, end: int, held: AbstractSet[int]) -> list[int]:
        """The positions below `end` that are neither in it nor `held` elsewhere, in order."""
        return [position for gap in self.gaps(end) for position in range(*gap) if position not in held]

    def next_free(self, position: int) -> int:
        """The first position not in it, from `position` on."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._ends[index]) if index >= 0 else position

    def add(self, position: int) -> None:
        """Count a position; raises ValueError if it has been counted."""
        if position in self:
            raise ValueError(f"prompt {position} has been learned from already")
        index = bisect_right(self._starts, position)
        joins_left = index > 0 and self._ends[index - 1] == position
        joins_right = index < len(self._starts) and self._starts[index] == position + 1
        if joins_left and joins_right:
            self._ends[index - 1] = self._ends.pop(index)
            self._starts.pop(index)
        elif joins_left:
            self._ends[index - 1] += 1
        elif joins_right:
            self._starts[index] -= 1
        else:
            self._starts.insert(index, position)
            self._ends.insert(index, position + 1)

    def ranges(self) -> list[tuple[int, int]]:
        """The half-open ranges, in order; `Ledger(ledger.ranges())` is a copy."""
        return list(zip(self._starts, self._ends, strict=True))
