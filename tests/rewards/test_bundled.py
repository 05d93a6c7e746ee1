from typing import Any

import pytest

from areal.broker.errors import RewardError
from areal.rewards.answers.after_hash import after_hash
from areal.rewards.answers.arithmetic import arithmetic


@pytest.mark.parametrize(
    ("completion", "earned"),
    [
        ("7;37;379;1379#1379", 1.0),
        ("#1379", 1.0),
        ("#1#1379", 1.0),
        ("1379", 0.0),
        ("1379#", 0.0),
        ("#1379#", 0.0),
        ("#1379 ", 0.0),
        ("#13790", 0.0),
        ("#379", 0.0),
        ("", 0.0),
    ],
)
def test_after_hash(completion: str, earned: float) -> None:
    assert after_hash(completion, "1379") == earned


def test_after_hash_takes_an_answer_that_a_dataset_holds_as_a_number() -> None:
    assert after_hash("...#3", 3) == 1.0  # type: ignore[arg-type]


def test_an_empty_answer_still_needs_its_hash() -> None:
    assert (after_hash("", ""), after_hash("#", "")) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("completion", "answer", "earned"),
    [
        ("7", "7", 1.0),
        ("3 + 4 is 7.", 7, 1.0),
        ("3+4=7.0!", "7", 1.0),
        ("7, not 8", 7, 0.0),
        ("seven", 7, 0.0),
        ("", 7, 0.0),
        ("77", 7, 0.0),
        ("it is -5", -5, 1.0),
        ("it is −5", "-5", 1.0),
        ("9-5", 5, 1.0),
        ("9-5", -5, 0.0),
        ("1,234,567 people", 1234567, 1.0),
        ("not one: 1,2345", 2345, 1.0),
        ("0.10", 0.1, 1.0),
        (".5", "0.50", 1.0),
        ("$12.", "12", 1.0),
        ("9007199254740993", "9007199254740992", 0.0),
    ],
)
def test_arithmetic(completion: str, answer: Any, earned: float) -> None:
    assert arithmetic(completion, answer) == earned


def test_arithmetic_refuses_a_row_without_a_number() -> None:
    with pytest.raises(RewardError, match="'none' of a row holds no number"):
        arithmetic("7", "none")
