from typing import Any

import pytest

from areal.broker.errors import RewardError
from areal.rewards.answers.numeric import numeric


@pytest.mark.parametrize(
    ("completion", "answer", "kwargs", "earned"),
    [
        ("about 3.1416", "3.14159", {"absolute": 1e-4}, 1.0),
        ("about 3.1416", "3.14159", {}, 0.0),
        ("about 3.1416", "3.14159", {"relative": 1e-5}, 1.0),
        ("6.02 × 10^23", 6.022e23, {"relative": 1e-3}, 1.0),
        ("6.02e23", "6.022e23", {"relative": 1e-4}, 0.0),
        (r"\boxed{\frac{1}{3}}, to 2 digits 0.33", "1/3", {}, 1.0),
        ("-1/3", "1/3", {}, 0.0),
        ("0.3333333", "1/3", {}, 1.0),
        ("0.333", "1/3", {}, 0.0),
        ("50%", "0.5", {}, 1.0),
        ("50%", "50", {}, 0.0),
        ("50%", "50", {"ignore_percent": True}, 1.0),
        ("50%", "50%", {}, 1.0),
        ("0.5", "50%", {}, 1.0),
        ("50", "50%", {}, 0.0),
        ("0.1", 0.1, {"relative": 0.0}, 1.0),
        ("10", "11", {"absolute": 1.0, "relative": 0.0}, 1.0),
        ("9.999", "11", {"absolute": 1.0, "relative": 0.0}, 0.0),
        ("0", "0", {}, 1.0),
        ("nothing", "0", {}, 0.0),
        ("1e999999999", "1", {}, 0.0),
        ("NaN", "1", {}, 0.0),
        ("inf", "1", {}, 0.0),
        ("1/0", "1", {}, 0.0),
        ("1" * 10_000_000, "1", {}, 0.0),
        ("1e9" * 1_000_000, "1", {}, 0.0),
        ("", "1", {}, 0.0),
    ],
)
def test_within_tolerance(completion: str, answer: Any, kwargs: dict[str, Any], earned: float) -> None:
    assert numeric(completion, answer, **kwargs) == earned


@pytest.mark.parametrize("answer", ["none", "nan", "1e999999999", float("inf")])
def test_an_answer_that_is_no_number_is_an_error(answer: Any) -> None:
    with pytest.raises(RewardError, match="holds no number that can be read"):
        numeric("1", answer)
