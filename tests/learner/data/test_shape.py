import datetime
import decimal
from typing import Any

import numpy as np
import pytest

from areal.broker.errors import ConfigError
from areal.learner.data.config import RowsConfig
from areal.learner.data.shape import Shape, plain

RAW = {"question": "How many?", "solution": "#### 3", "level": 2, "hint": None, "tags": ["a", "b"]}


def shaped(raw: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return Shape(RowsConfig(**options))(RAW if raw is None else raw, "here")


def test_columns_are_given_names_and_others_left_out() -> None:
    assert shaped(columns={"prompt": "question", "answer": "solution"}) == {"prompt": "How many?", "answer": "#### 3"}


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("Q: {{question}}\nA:", "Q: How many?\nA:"),
        ("{{ level }}. {{question}} Write \\boxed{}.", "2. How many? Write \\boxed{}."),
        ("{question} $question {{hint}}|{{tags}}", '{question} $question |["a", "b"]'),
    ],
)
def test_a_prompt_is_made_of_columns(template: str, prompt: str) -> None:
    assert shaped(prompt=template) == {**RAW, "prompt": prompt}
    assert shaped(prompt=template, columns={"answer": "solution"}) == {"prompt": prompt, "answer": "#### 3"}


def test_a_template_knows_columns_by_both_their_names() -> None:
    assert shaped(prompt="{{answer}} {{solution}}", columns={"answer": "solution"})["prompt"] == "#### 3 #### 3"


def test_what_a_value_says_is_never_a_place_in_the_template() -> None:
    raw = {"question": "{{secret}} {{question}}", "secret": "x"}
    assert shaped(raw, prompt="{{question}}")["prompt"] == "{{secret}} {{question}}"


def test_no_attribute_can_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"no column 'question\.__class__' \(dataset\.prompt\)"):
        shaped(prompt="{{question.__class__}}")


def test_a_system_message_goes_before_all_others() -> None:
    system = {"role": "system", "content": "Think."}
    user = {"role": "user", "content": "How many?"}
    assert shaped(system="Think.", columns={"prompt": "question", "answer": "solution"}) == {
        "messages": [system, user],
        "answer": "#### 3",
    }
    assert shaped({"messages": [user], "id": 1}, system="Think.") == {"messages": [system, user], "id": 1}
    own = {"messages": [{"role": "system", "content": "Mine."}, user]}
    assert shaped(own, system="Think.") == own


def test_a_template_takes_the_place_of_messages() -> None:
    assert shaped({"messages": [{"role": "user", "content": "a"}], "b": "c"}, prompt="{{b}}") == {
        "b": "c",
        "prompt": "c",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": {"prompt": "qestion"}},
            r"^here: there is no column 'qestion' \(dataset\.columns\.prompt\) \(did you",
        ),
        (
            {"prompt": "{{qestion}}"},
            r"no column 'qestion' \(dataset\.prompt\) \(did you mean question\?\); its columns are q",
        ),
        ({}, r"here: a row needs `prompt` or `messages`; its columns are question, .*dataset\.columns"),
        ({"columns": {"prompt": "level"}}, r"here: `prompt` must be text, not int"),
        ({"columns": {"prompt": "hint"}}, r"here: `prompt` must be text, not NoneType"),
        ({"columns": {"messages": "tags"}}, r"here: `messages` must be a list of"),
    ],
)
def test_what_cannot_be_a_prompt_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped(**options)


def test_values_become_what_json_has() -> None:
    value = {
        1: np.float32(0.5),
        "when": datetime.date(2024, 2, 29),
        "price": decimal.Decimal("1.10"),
        "array": np.array([[1, 2]]),
        "pair": ("a", np.str_("b")),
    }
    made = plain(value, "here")
    assert made == {"1": 0.5, "when": "2024-02-29", "price": "1.10", "array": [[1, 2]], "pair": ["a", "b"]}
    assert type(made["pair"][1]) is str


def test_a_value_that_no_prompt_can_carry_is_named_with_its_column() -> None:
    with pytest.raises(ConfigError, match=r"^here: column image: a bytes, .* leave it out by dataset\.columns"):
        shaped({"prompt": "x", "image": b"\x89PNG"})


def test_only_columns_that_are_named_need_be_read() -> None:
    known = ["question", "solution", "level", "image"]
    assert Shape(RowsConfig()).needed(known) == known
    config = RowsConfig(
        columns={"answer": "solution"},
        prompt="{{ question }}",
        curriculum={"column": "level", "start": 1, "positions": 2},  # type: ignore[arg-type]
    )
    assert Shape(config).needed(known) == ["question", "solution", "level"]
