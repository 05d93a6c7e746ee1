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


def test_a_position_counts_once() -> None:
    ledger = Ledger([(0, 3)])
    with pytest.raises(ValueError, match="prompt 2 has been learned from already"):
        ledger.add(2)
    ledger.add(4)
    ledger.add(3)
    assert ledger.ranges() == [(0, 5)]
