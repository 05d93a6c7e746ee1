from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.loading import load_reward
from areal.rewards.reward import Score, begins_with, checked, combine, prepare, short_names

ROW = {"answer": "7", "level": 2, "prompt": "the row's own", "completion": "the row's own"}


def test_a_function_gets_only_what_it_takes() -> None:
    def narrow(completion: str, level: int = 0) -> Any:
        return completion, level

    def wide(prompt: str, **row: Any) -> Any:
        return prompt, row

    assert prepare("narrow", narrow, {})("p", "c", ROW) == ("c", 2)
    assert prepare("wide", wide, {"x": 1})("p", "c", ROW) == (
        "p",
        {"completion": "c", "answer": "7", "level": 2, "x": 1},
    )


def test_configured_arguments_win_over_columns() -> None:
    assert prepare("f", lambda completion, level: level, {"level": 5})("p", "c", ROW) == 5


def test_a_missing_column_is_named() -> None:
    reward = prepare("f", lambda completion, solution: 0, {})
    with pytest.raises(
        RewardError, match="f wants 'solution', which the row lacks; its columns: answer, completion, lev"
    ):
        reward("p", "c", ROW)


def test_arguments_that_do_not_fit_are_refused_when_loaded() -> None:
    with pytest.raises(ConfigError, match="reward 'f' cannot be given the argument 'lenght'; its parameters: 'length'"):
        prepare("f", lambda length=1: 0, {"lenght": 2})
    with pytest.raises(ConfigError, match="cannot be given the argument 'prompt'"):
        prepare("f", lambda **row: 0, {"prompt": "mine"})
    with pytest.raises(ConfigError, match="parameters without a name"):
        prepare("f", lambda text, /: 0, {})


def test_no_column_changes_what_a_function_begins_with() -> None:
    @begins_with(lambda level, size: None)
    def f(completion: str, answer: str, *, level: int = 1, size: int = 3, **row: Any) -> Any:
        return answer, level, size, sorted(row)

    assert prepare("f", f, {"size": 4})("p", "c", ROW | {"size": 5}) == ("7", 1, 4, ["prompt"])
    with pytest.raises(ConfigError, match=r"cannot be given the argument 'sizes'; its parameters: .*'size'"):
        prepare("f", f, {"sizes": 4})


def test_a_call_that_may_last_longer_than_it_is_given_is_refused() -> None:
    @begins_with(lambda patience_s: None, longest_s=lambda patience_s, retries: patience_s * (retries + 1))
    def f(completion: str, *, patience_s: float = 2.0, retries: int = 3) -> float:
        return 0.0

    prepare("f", f, {}).require_in_time(8.0)
    prepare("f", lambda completion: 0.0, {}).require_in_time(0.1)
    wanted = r"'f' may take 9.2 s \(kwargs.patience_s 2.3, kwargs.retries 3\), .* after 8 s: set rewards.timeout_s to 10 or more"
    with pytest.raises(ConfigError, match=wanted):
        prepare("f", f, {"patience_s": 2.3}).require_in_time(8.0)
    prepare("f", f, {"patience_s": "long"}).require_in_time(8.0)  # for begin to refuse


@pytest.mark.parametrize(("name", "longest_s"), [("judge", 120.0), ("verifier", 120.0), ("code", 9.5)])
def test_bundled_rewards_say_what_a_call_may_take(name: str, longest_s: float) -> None:
    kwargs = {} if name == "code" else {"url": "http://127.0.0.1:9/v1", "model": "m"}
    reward = prepare(name, load_reward(name), kwargs)
    reward.require_in_time(longest_s)
    with pytest.raises(ConfigError, match=f"may take {longest_s:g} s"):
        reward.require_in_time(longest_s - 0.01)


@pytest.mark.parametrize("value", [True, 1, 1.0, Fraction(1), np.float32(1), np.int64(1)])
def test_numbers_are_accepted(value: Any) -> None:
    number = checked("f", value)
    assert number == 1.0 and type(number) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"f returned nan \(float\), not a finite number"),
        (float("-inf"), r"f returned -inf \(float\)"),
        (10**400, r"f returned 10+… \(int\), not a finite number"),
        (None, r"f returned None \(NoneType\)"),
        ("1", r"f returned '1' \(str\)"),
        ([1.0], r"f returned \[1\.0\] \(list\)"),
        (Decimal(1), r"f returned Decimal\('1'\)"),
        ({}, r"f returned \{\} \(dict\), not a mapping of names to numbers"),
        ({1: 1.0}, r"f returned \{1: 1\.0\} \(dict\), not a mapping"),
        ({"ok": 1, "bad": None}, r"f \(bad\) returned None"),
    ],
)
def test_anything_else_is_refused(value: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked("f", value)


def test_a_score_is_the_weighted_sum_and_keeps_what_the_functions_returned() -> None:
    score = combine(["sort", "style"], [1.0, 0.5], [1.0, {"short": -2.0, "polite": 1.0}])
    assert score == Score(0.5, {"sort": 1.0, "style.short": -2.0, "style.polite": 1.0})


def test_a_sum_that_overflows_is_refused() -> None:
    with pytest.raises(RewardError, match="weighted sum"):
        combine(["f"], [1e200], [1e200])


def test_short_names_are_unique() -> None:
    assert short_names(["sort", "./a.py:f", "./b.py:f", "m.n:g"]) == ["sort", "f", "f_2", "g"]
