import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.rewards.forms.json_text import NotJson, canonical, parse, parse_last, same

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_json_writes_is_read_as_it_was(value: Any) -> None:
    assert same(parse(json.dumps(value)), value)
    assert same(parse_last(f"Here it is:\n```json\n{json.dumps(value)}\n```\n"), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "1e999999999",
        "1" * 5_000,
        "[" * 100_000,
        "[" * 65 + "]" * 65,
        '{"a":' * 49_000 + "1" + "}" * 49_000,
        '"' * 99_999,
        '["' + '\\"' * 49_000 + "\\",
        "[" + "1," * 10_000_000 + "1]",
        "{'a': 1}",
        "[1,]",
    ],
    ids=range(16),
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(NotJson):
        parse(text)


def test_brackets_in_texts_are_not_nesting() -> None:
    assert parse(json.dumps(["[" * 1000, '"[' * 1000])) == ["[" * 1000, '"[' * 1000]
    assert parse("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1]", [1]),
        ("```json\n[1]\n```", [1]),
        ("```\n[1]\n```", [1]),
        ("no:\n```json\n[1]\n```\nyes:\n```json\n[2]\n```", [2]),
        ('{"a": "```json"}', {"a": "```json"}),
    ],
)
def test_the_last_json_of_a_text(text: str, value: Any) -> None:
    assert parse_last(text) == value


@pytest.mark.parametrize(
    "text", ["it is [1]", "```python\n[1]\n```", "```json\n[1]", "```json\n[1]\n```\n```sh\nls\n```"]
)
def test_a_text_without_json(text: str) -> None:
    with pytest.raises(NotJson):
        parse_last(text)


def test_sameness_is_that_of_json() -> None:
    assert same({"a": [1, 2.0]}, {"a": [1.0, 2]}) and same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same(1, True) and not same([0], [False]) and not same("1", 1) and not same([1], [1, 1])
    assert not same({"a": None}, {}) and not same(None, False)


@given(VALUES, VALUES)
def test_the_same_json_has_the_same_text(one: object, other: object) -> None:
    assert (canonical(one) == canonical(other)) == same(one, other)
    assert (
        canonical([{"b": 1.0, "a": True}, 2])
        == canonical([{"a": True, "b": 1}, 2.0])
        != canonical([{"a": 1, "b": 1}, 2])
    )
