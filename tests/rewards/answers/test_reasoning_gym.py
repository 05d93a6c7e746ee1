import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.answers.harmless import harmless
from areal.rewards.answers.reasoning_gym import MAX_ANSWER_CHARS, extracted, read, reasoning_gym, written
from areal.rewards.loading import load_reward
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("completion", "where", "answer"),
    [
        ("a <answer> 7 </answer> b", "auto", "7"),
        ("<answer>1</answer> or <answer>2</answer>", "tags", "2"),
        ("<answer>1<answer>2</answer>", "tags", "2"),
        ("<answer>7", "tags", None),
        ("7</answer>", "tags", None),
        ("So.\n**Answer:** 7", "auto", "7"),
        ("Answer: 1. No, the answer: 2\nx", "mark", "2\nx"),
        ("İİ Answer:7", "mark", "7"),
        ("7", "mark", None),
        (r"thus \boxed{\frac{1}{2}}.", "auto", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed{ 2 }", "boxed", "2"),
        (r"\boxed{1} \boxed{2", "boxed", None),
        ("{1}", "boxed", None),
        ("first\n 7 \n\n", "last_line", "7"),
        ("", "last_line", ""),
        (" first\n7\n", "auto", "first\n7"),
        ("<answer>1</answer> Answer: 2", "all", "<answer>1</answer> Answer: 2"),
        (r"<answer>1</answer> Answer: \boxed{2}", "auto", "1"),
    ],
)
def test_where_an_answer_stands(completion: str, where: Any, answer: str | None) -> None:
    assert extracted(completion, where) == answer


@pytest.mark.parametrize("where", ["auto", "tags", "mark", "boxed", "last_line"])
def test_a_hostile_completion_is_read_in_no_time(where: Any) -> None:
    for piece in ("<answer>", "\\boxed{", "answer:", "{", "</answer><answer>"):
        extracted(piece * 200_000, where)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.just("()"), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values))
def test_metadata_is_read_as_it_was_written(metadata: dict[str, Any]) -> None:
    again = read(written(metadata))
    assert repr(again) == repr(metadata)


def test_numbers_and_texts_of_numpy_are_written_as_pythons() -> None:
    assert read(written({"a": np.int64(3), "b": np.str_("x"), "c": np.array([1])})) == {"a": 3, "b": "x", "c": [1]}
    assert written({"a": (1, Fraction(1, 3))}) == '{"a":{"()":[1,{"/":[1,3]}]}}'
    with pytest.raises(TypeError, match="a set cannot be written"):
        written({"a": {1}})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"/": [1, 0]}', '{"/": 1}', '{"{}": [[[], 1]]}'])
def test_what_is_no_metadata_is_a_failure_and_no_score(text: str) -> None:
    with pytest.raises(RewardError, match="metadata is not what reasoning_gym rows have"):
        read(text)


COUNTDOWN = ["3 + 4*(5 - 2)/3", "-(3)", "1.5"]
LITERAL = ["1 2\n3", "[[1, 2], [3]]", '["A", "B"]', "Q _ _\n_ Q _", "ABCD"]
FORMULA = [
    "3*x**2 + 4*x - 1/2",
    "2*(-6*x - 6)**(3/2) + C",
    "exp(x)*sin(2*x)/5",
    "x**10*(log(x) - 1)",
    "x**-2",
    "asin(x)",
]
HOSTILE = [
    "__import__('os').system('touch HERE')",
    "().__class__.__bases__[0]",
    "open('HERE', 'w')",
    "exit()",
    "x.__class__",
    "eval('1')",
    "(lambda: 1)()",
    "9**9**9**9",
    "9**99999999",
    "(((((9)**99)**99)**99)**99)**99",
    "factorial(99999999)",
    "9" * 3000,
    "x" * 3000,
    "ｅｖａｌ(1)",
    "Integral(x, x)",
]


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        ("countdown", COUNTDOWN),
        ("puzzle24", COUNTDOWN),
        ("n_queens", LITERAL),
        ("binary_matrix", LITERAL),
        ("spiral_matrix", LITERAL),
        ("string_insertion", LITERAL),
        ("simple_integration", FORMULA),
        ("intermediate_integration", FORMULA),
        ("polynomial_multiplication", FORMULA),
    ],
)
def test_a_scorer_that_evaluates_answers_is_given_no_harmful_ones(task: str, answers: list[str]) -> None:
    assert [answer for answer in answers if not harmless(task, answer)] == []
    assert [answer for answer in HOSTILE if harmless(task, answer)] == []
    assert harmless("chain_sum", HOSTILE[0])  # which compares texts


def test_a_long_proposition_earns_nothing_soon() -> None:
    package = pytest.importorskip("reasoning_gym")
    entry = package.create_dataset("propositional_logic", seed=1, size=1)[0]
    given = entry["answer"], entry["metadata"]["example_answer"], "¬" * 200 + "P", "¬" * 3_000 + "P"
    began = time.process_time()
    earned = [reasoning_gym(each or "P", None, "propositional_logic", written(entry["metadata"])) for each in given]
    assert earned[1] == 1.0 and earned[2:] == [0.0, 0.0]
    assert time.process_time() - began < 1.5


def test_nothing_of_an_answer_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("reasoning_gym")
    monkeypatch.chdir(tmp_path)
    for task in ("countdown", "n_queens", "polynomial_multiplication"):
        entry = package.create_dataset(task, seed=1, size=1)[0]
        for answer in HOSTILE:
            assert reasoning_gym(answer, entry["answer"], task, written(entry["metadata"])) == 0.0
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_the_scorer_fails_on_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("reasoning_gym")
    from areal.rewards.answers import reasoning_gym as module

    def scorer(answer: str | None, entry: dict[str, Any]) -> float:
        return float(int(answer or "") == entry["metadata"]["n"])

    monkeypatch.setattr(module, "_scorer", lambda task: scorer)
    assert [reasoning_gym(given, "3", "task", '{"n":3}') for given in ("3", "4", "three")] == [1.0, 0.0, 0.0]
    with pytest.raises(RewardError, match=r"the scorer of task fails on every answer: KeyError\('n'\)"):
        reasoning_gym("3", "3", "task", "{}")


def test_an_answer_that_is_too_long_is_wrong() -> None:
    assert reasoning_gym("7" * (MAX_ANSWER_CHARS + 1), "7", "gcd", "{}") == 0.0


def test_a_row_of_no_task_is_a_failure() -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(RewardError, match="no task 'gdc'"):
        reasoning_gym("7", "7", "gdc", json.dumps({}))


def test_a_place_that_there_is_not_is_refused_at_the_start() -> None:
    reward = prepare("reasoning_gym", load_reward("reasoning_gym"), {"where": "box"})
    with pytest.raises(ConfigError, match=r"no kwargs\.where 'box'; known: auto, tags, mark, boxed, last_line, all"):
        reward.begin()
    pytest.importorskip("reasoning_gym")
    prepare("reasoning_gym", load_reward("reasoning_gym"), {}).begin()
