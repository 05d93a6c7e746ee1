from collections import Counter
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import RewardError
from areal.rewards.answers.countdown import countdown
from areal.rewards.answers.expression import NoExpression, evaluate


@pytest.mark.parametrize(
    ("completion", "earned"),
    [
        ("<answer>(1 + 2) * 3</answer>", 1.0),
        ("<answer>3 * (2 + 1) = 9</answer>", 1.0),
        ("<think>1+1</think>\n<answer> 3*(2+1) </answer>", 1.0),
        (r"\boxed{3 \times (1 + 2)}", 1.0),
        (r"$\boxed{3 \cdot \left(1 + 2\right)}$", 1.0),
        ("Let me see.\n(1+2)*3 = 9\n", 1.0),
        ("(1+2)×3", 1.0),
        ("3 / (1 / (1 + 2))", 0.0),
        ("(1+2)*3 + 1 - 1", 0.0),
        ("3*3", 0.0),
        ("9", 0.0),
        ("1+2+3", 0.1),
        ("3 - 1 - 2", 0.1),
        ("3 / (1 - 2)", 0.1),
        ("-(1 - 2) * 3", 0.1),
        ("3 / (2 - 1 - 1)", 0.0),
        ("12 - 3", 0.0),
        ("(1+2)*3)", 0.0),
        ("((1+2)*3", 0.0),
        ("(1+2)**3", 0.0),
        ("(1+2)(3)", 0.0),
        ("1.0+2+3", 0.0),
        ("__import__('os')", 0.0),
        ("1+2*x", 0.0),
        ("١+2+3", 0.0),
        ("", 0.0),
        ("<answer></answer>", 0.0),
        ("(" * 10_000_000, 0.0),
        ("<answer>" + "-" * 10_000_000 + "1</answer>", 0.0),
        ("-" * 190 + "1", 0.0),
        ("1" * 10_000_000, 0.0),
        ("9**9**9**9", 0.0),
    ],
    ids=range(32),
)
def test_nine_of_one_two_three(completion: str, earned: float) -> None:
    assert countdown(completion, [1, 2, 3], 9, legal=0.1) == earned
    assert countdown(completion, [3, 2, 1], 9) == (earned if earned == 1.0 else 0.0)


def test_some_numbers_may_be_left_out() -> None:
    assert countdown("2 * 3", [1, 2, 3], 6, use="some") == 1.0
    assert countdown("2 * 3", [1, 2, 3], 6) == 0.0
    assert countdown("3 * 3", [1, 2, 3], 9, use="some") == 0.0
    assert countdown("3 * 3", [3, 2, 3], 9, use="some") == 1.0


def test_fractions_are_exact() -> None:
    assert countdown("8 / (3 - 8 / 3)", [8, 3, 8, 3], 24) == 1.0


@pytest.mark.parametrize(
    ("numbers", "target"), [([1.5], 2), (["x"], 2), ([], 2), (3, 2), ([1], None), ([1], float("inf"))]
)
def test_a_row_without_numbers_is_an_error(numbers: Any, target: Any) -> None:
    with pytest.raises(RewardError, match="whole numbers are wanted"):
        countdown("1", numbers, target)


def test_evaluate_tells_the_value_and_the_numbers() -> None:
    assert evaluate("7 - 6 / 4 * 2 + -1") == (Fraction(3), [7, 6, 4, 2, 1])
    for text in ("", "1 +", "+ 1", "1 2", "()", "1 / 0", "1" * 13, "1 + " * 60 + "1", "(" * 21 + "1" + ")" * 21):
        with pytest.raises(NoExpression):
            evaluate(text)


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_any_expression_has_the_value_that_python_gives_it(text: str) -> None:
    exact = "".join(
        f"Fraction({part})" if part.isdigit() else part for part in text.replace("(", "( ").replace(")", " )").split()
    )
    try:
        value = Fraction(eval(exact, {"Fraction": Fraction}))
    except ZeroDivisionError:
        with pytest.raises(NoExpression):
            evaluate(text)
        return
    assert evaluate(text)[0] == value


def reachable(numbers: list[int]) -> dict[Fraction, str]:
    """Every value of all the numbers, with an expression that comes to it: by brute force."""
    found: dict[Fraction, str] = {}

    def search(left: list[tuple[Fraction, str]]) -> None:
        if len(left) == 1:
            found.setdefault(*left[0])
        for i, j in permutations(range(len(left)), 2):
            (a, of_a), (b, of_b) = left[i], left[j]
            rest = [left[k] for k in range(len(left)) if k not in (i, j)]
            results = {"+": a + b, "-": a - b, "*": a * b} | ({"/": a / b} if b else {})
            for operator, value in results.items():
                search([*rest, (value, f"({of_a} {operator} {of_b})")])

    search([(Fraction(number), str(number)) for number in numbers])
    return found


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=3), st.integers(0, 60))
def test_against_brute_force(numbers: list[int], target: int) -> None:
    for value, text in reachable(numbers).items():
        assert countdown(text, numbers, target) == float(value == target)
        assert countdown(text, [*numbers, 1], target) == 0.0
        assert Counter(evaluate(text)[1]) == Counter(numbers)
