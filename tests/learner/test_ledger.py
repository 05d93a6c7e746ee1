from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.learner.ledger import Ledger


@given(st.lists(st.integers(0, 40), unique=True))
def test_it_is_a_set_kept_as_ranges(positions: list[int]) -> None:
    ledger = Ledger()
    for count, position in enumerate(positions):
        assert position not in ledger
        ledger.add(position)
        assert position in ledger and len(ledger) == count + 1
    assert [p for p in range(-1, 42) if p in ledger] == sorted(positions)
    ranges = ledger.ranges()
    assert all(end < start for (_, end), (start, _) in pairwise(ranges))
    assert Ledger(ranges).ranges() == ranges


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 45)), st.integers(0, 45))
def test_what_is_not_in_it_is_as_of_a_set(positions: set[int], held: set[int], end: int) -> None:
    ledger = Ledger()
    for position in positions:
        ledger.add(position)
    outside = [position for position in range(end) if position not in positions]
    gaps = ledger.gaps(end)
    assert [position for gap in gaps for position in range(*gap)] == outside
    assert all(start < stop for start, stop in gaps)
    assert all(stop < start for (_, stop), (start, _) in pairwise(gaps))
    assert ledger.missing(end, held) == [position for position in outside if position not in held]
    assert ledger.next_free(end) == next(position for position in range(end, 100) if position not in positions)


def test_what_is_not_in_it() -> None:
    ledger = Ledger([(0, 2), (5, 6), (8, 10)])
    assert ledger.gaps(12) == [(2, 5), (6, 8), (10, 12)]
    assert ledger.gaps(7) == [(2, 5), (6, 7)]
    assert ledger.gaps(2) == ledger.gaps(0) == []
    assert Ledger().gaps(3) == [(0, 3)]
    assert ledger.missing(12, {3, 5, 11, 40}) == [2, 4, 6, 7, 10]
    assert [ledger.next_free(position) for position in (0, 1, 2, 5, 9, 50)] == [2, 2, 2, 6, 10, 50]


def test_a_position_counts_once() -> None:
    ledger = Ledger([(0, 3)])
    with pytest.raises(ValueError, match="prompt 2 has been learned from already"):
        ledger.add(2)
    ledger.add(4)
    ledger.add(3)
    assert ledger.ranges() == [(0, 5)]
