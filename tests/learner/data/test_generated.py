import ast
import operator
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import ConfigError
from areal.learner.config import DatasetConfig
from areal.learner.data import generated
from areal.learner.dataset import Dataset
from areal.learner.problems import PROBLEMS, arithmetic, countdown

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def dataset(source: str, **options: Any) -> Dataset:
    return Dataset(DatasetConfig.model_validate({"source": source, "eval_size": 10, **options}))


def worth(written: str) -> tuple[Fraction, list[int]]:
    """What an expression comes to, and its numbers."""
    numbers: list[int] = []

    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            numbers.append(node.value)
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        value: Fraction = OPERATIONS[type(node.op)](of(node.left), of(node.right))
        return value

    return of(ast.parse(written, mode="eval").body), numbers


def test_arithmetic_without_options_is_what_it_was() -> None:
    rows = [dataset("arithmetic", seed=5).train_row(position) for position in range(3)]
    assert rows == [
        {"prompt": "What is 9 + 4? Answer with a number only.", "answer": "13"},
        {"prompt": "What is 3 × 9? Answer with a number only.", "answer": "27"},
        {"prompt": "What is 5 + 4? Answer with a number only.", "answer": "9"},
    ]


@pytest.mark.parametrize("digits", [1, 2, 5])
@pytest.mark.parametrize(
    ("sign", "right"),
    [("+", operator.add), ("−", operator.sub), ("×", operator.mul), ("÷", operator.floordiv)],
)
def test_arithmetic_of_more_digits_and_other_operations(digits: int, sign: str, right: Any) -> None:
    problem, longest, rng = arithmetic(digits=digits, operations=[sign]), 0, Random(digits)
    for _ in range(200):
        row = problem.row(rng)
        first, seen, second = row["prompt"].removeprefix("What is ").partition("?")[0].split()
        assert seen == sign and int(row["answer"]) == right(int(first), int(second))
        assert sign != "÷" or int(first) % int(second) == 0
        longest = max(longest, len(second))
    assert longest == digits


@settings(max_examples=150)
@given(
    numbers=st.integers(2, 6), max_number=st.integers(5, 99), max_target=st.integers(20, 999), seed=st.integers(0, 99)
)
def test_countdown_can_always_be_solved(numbers: int, max_number: int, max_target: int, seed: int) -> None:
    row = countdown(numbers=numbers, max_number=max_number, max_target=max_target).row(Random(seed))
    assert len(row["numbers"]) == numbers and all(1 <= number <= max_number for number in row["numbers"])
    assert 1 <= row["target"] <= max_target and row["target"] not in row["numbers"]
    value, used = worth(row["answer"])
    assert value == row["target"] and sorted(used) == sorted(row["numbers"])
    assert ", ".join(map(str, row["numbers"])) in row["prompt"] and f"equals {row['target']}." in row["prompt"]


def test_a_level_is_drawn_from_those_admitted() -> None:
    made = dataset("countdown", curriculum={"start": 2, "end": 4, "positions": 100, "steps": 2})
    rows = [made.train_row(position) for position in range(200)]
    levels = [len(row["numbers"]) for row in rows]
    assert levels == [row["difficulty"] for row in rows]
    assert [set(levels[begin:end]) for begin, end in ((0, 50), (50, 100), (100, 200))] == [{2}, {2, 3}, {2, 3, 4}]
    assert min(levels[100:].count(level) for level in (2, 3, 4)) > 15
    assert [row["difficulty"] for row in made.eval_rows()] == [2, 3, 4, 2, 3, 4, 2, 3, 4, 2]
    again = dataset("countdown", curriculum={"start": 2, "end": 4, "positions": 100, "steps": 2})
    assert [again.train_row(position) for position in (150, 3, 60)] == [rows[position] for position in (150, 3, 60)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50), begin=st.integers(0, 10**9))
def test_a_held_out_row_is_never_trained_on(seed: int, begin: int) -> None:
    made = dataset("arithmetic", seed=seed, eval_size=100)
    held_out = {row["prompt"] for row in made.eval_rows()}
    assert len(held_out) == 100
    assert not held_out & {made.train_row(position)["prompt"] for position in range(begin, begin + 50)}


@pytest.mark.parametrize(
    ("source", "kwargs", "eval_size"),
    [
        ("countdown", {"numbers": 2, "max_number": 5}, 6),
        ("arithmetic", {"operations": ["+"]}, 27),
        ("arithmetic", {"operations": ["×"]}, 27),
    ],
)
def test_a_held_out_problem_is_not_trained_on_in_another_order(
    source: str, kwargs: dict[str, Any], eval_size: int
) -> None:
    def same(row: dict[str, Any]) -> Any:
        if source == "countdown":
            return sorted(row["numbers"]), row["target"]
        return sorted(row["prompt"].removeprefix("What is ").partition("?")[0].split())

    made = dataset(source, kwargs=kwargs, eval_size=eval_size)
    held_out = [same(row) for row in made.eval_rows()]
    assert len(held_out) == eval_size and all(held_out.count(each) == 1 for each in held_out)
    trained = [same(made.train_row(position)) for position in range(300)]
    assert not [each for each in trained if each in held_out]


@pytest.mark.parametrize(
    ("operations", "count"), [(["+"], 55), (["×", "+"], 110), (["−"], 100), (["÷"], 90), (["+", "−", "×", "÷"], 300)]
)
def test_arithmetic_counts_problems_whatever_their_order(operations: list[str], count: int) -> None:
    problem, rng = arithmetic(operations=operations), Random(0)
    assert problem.num_rows == count == len({problem.key(problem.row(rng)) for _ in range(9000)})


def test_arithmetic_without_options_is_told_apart_by_its_text() -> None:
    problem, rng = PROBLEMS["arithmetic"], Random(0)
    assert problem.num_rows == 200 == len({problem.key(problem.row(rng)) for _ in range(9000)})


def test_prompts_of_made_rows_are_shaped_as_others_are() -> None:
    made = dataset("arithmetic", system="Be brief.", prompt="{{prompt}} Think first.", columns={"answer": "answer"})
    plain = dataset("arithmetic")
    row = plain.train_row(4)
    assert made.train_row(4) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"{row['prompt']} Think first."},
        ],
        "answer": row["answer"],
    }
    assert [each["answer"] for each in made.eval_rows()] == [each["answer"] for each in plain.eval_rows()]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "arithmetic",
            {"kwargs": {"digit": 2}},
            r"arithmetic \(dataset\.kwargs\) has no option 'digit' \(did you mean d",
        ),
        ("arithmetic", {"kwargs": {"digits": 0}}, r"dataset\.kwargs\.digits: 0, and a whole number from 1 to 9"),
        ("arithmetic", {"kwargs": {"operations": ["+", "%"]}}, r"dataset\.kwargs\.operations: .* some of \+ − × ÷"),
        ("countdown", {"kwargs": {"numbers": 2.5}}, r"dataset\.kwargs\.numbers: 2\.5, and a whole number"),
        ("sort", {"kwargs": {"digits": 2}}, r"dataset\.kwargs: sort has no options; arithmetic, countdown have"),
        ("digits", {"kwargs": {"digits": 2}}, r"dataset\.kwargs: they are for rows made on the fly"),
        ("sort", {"curriculum": {"start": 1, "end": 2, "positions": 9}}, r"curriculum\.start: sort has no levels"),
        ("digits", {"curriculum": {"start": 1, "positions": 9}}, r"curriculum: the classes of digits are none harder"),
        (
            "countdown",
            {"curriculum": {"start": 2, "positions": 9}},
            r"dataset\.curriculum\.end is missing: rows of count",
        ),
        ("countdown", {"curriculum": {"start": 2.5, "end": 4, "positions": 9}}, r"curriculum\.start: 2\.5; levels"),
        ("countdown", {"curriculum": {"start": 2, "end": 99, "positions": 9}}, r"kwargs\.numbers: 99, .* from 2 to 8"),
        (
            "countdown",
            {"kwargs": {"numbers": 3}, "curriculum": {"start": 2, "end": 4, "positions": 9}},
            r"dataset\.kwargs\.numbers is what the curriculum sets",
        ),
        (
            "countdown",
            {"prompt": "{{target}} of {{number}}"},
            r"position 0: there is no column 'number' .*mean numbers",
        ),
        ("arithmetic", {"kwargs": {"operations": ["×"]}, "eval_size": 51}, r"51 rows cannot be held out of the 55"),
    ],
)
def test_options_that_there_are_not_are_refused(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset(source, **options)


def test_a_maker_that_makes_nothing_else_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "MAX_DRAWS", 1)
    with pytest.raises(ConfigError, match=r"eval_size: \d+ rows of arithmetic are held out, and 1 draws made no other"):
        dataset("arithmetic", eval_size=100)
