import time
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.broker.errors import RewardError
from areal.rewards.forms.repetition import repetition_penalty


@pytest.mark.parametrize(
    ("text", "size", "penalty"),
    [
        ("a b c d", 1, 0.0),
        ("a a a a", 1, -0.75),
        ("a b a b a b", 2, -0.6),  # ab ba ab ba ab: 2 of 5
        ("a b c a b c", 3, -0.25),  # abc bca cab abc
        ("A b\na  B", 2, -1 / 3),
        ("a a a a", 5, 0.0),
        ("a a a a", 4, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_penalty_counted_by_hand(text: str, size: int, penalty: float) -> None:
    assert repetition_penalty(text, size=size) == pytest.approx(penalty)
    assert repetition_penalty(text, size=size, penalty=2.0) == pytest.approx(2 * penalty)
    assert repetition_penalty(text, size=size, unit="characters") == pytest.approx(penalty)


@given(st.text(alphabet="ab", max_size=60), st.integers(1, 20))
def test_repetition_penalty_is_what_a_set_of_n_grams_tells(text: str, size: int) -> None:
    n_grams = list(zip(*(islice(text, start, None) for start in range(size)), strict=False))
    expected = len(set(n_grams)) / len(n_grams) - 1 if len(n_grams) > 1 else 0.0
    assert repetition_penalty(text, size=size, unit="characters") == pytest.approx(expected)


def test_repetition_of_a_long_text_is_no_trouble() -> None:
    began = time.process_time()
    assert repetition_penalty("a " * 5_000_000, size=50_000) == pytest.approx(1 / 50_001 - 1)
    assert repetition_penalty("a" * 10_000_000, size=1_000, unit="characters") < -0.99
    assert time.process_time() - began < 4.0
    with pytest.raises(RewardError, match=r"kwargs\.size of repetition_penalty is 0"):
        repetition_penalty("a", size=0)
