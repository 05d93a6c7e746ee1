import json
from typing import Any

import pytest

from areal.broker.errors import RewardError
from areal.rewards.forms.tool_call import tool_call

WEATHER = {"name": "weather", "arguments": {"city": "Bern", "days": 3}}


TIME = {"name": "time", "arguments": {}}


def hermes(*calls: Any) -> str:
    return "Let me see.\n" + "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


def openai(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": "1", "type": "function", "function": {**call, "arguments": json.dumps(call["arguments"])}}
        for call in calls
    ]


@pytest.mark.parametrize(
    "completion",
    [
        hermes(WEATHER, TIME),
        json.dumps([WEATHER, TIME]),
        json.dumps(openai(WEATHER, TIME)),
        json.dumps({"role": "assistant", "tool_calls": openai(WEATHER, TIME)}),
        f"I call:\n```json\n{json.dumps([WEATHER, TIME])}\n```",
        hermes({"arguments": {"days": 3.0, "city": "Bern"}, "name": "weather"}, {"name": "time"}),
    ],
)
@pytest.mark.parametrize("calls", [[WEATHER, TIME], json.dumps([WEATHER, TIME]), openai(WEATHER, TIME)])
def test_right_calls_however_written(completion: str, calls: Any) -> None:
    assert tool_call(completion, calls) == {"name": 0.5, "arguments": 0.5}


@pytest.mark.parametrize(
    ("completion", "name", "arguments"),
    [
        (hermes(WEATHER), 0.5, 0.5),
        (hermes(TIME, WEATHER), 0.0, 0.0),
        (hermes(WEATHER, WEATHER), 0.5, 0.5),
        (hermes(WEATHER, {"name": "time", "arguments": {"zone": "UTC"}}), 1.0, 0.5),
        (hermes({"name": "weather", "arguments": {"city": "Bern", "days": "3"}}, TIME), 1.0, 0.75),
        (hermes({"name": "weather", "arguments": {"city": "Bern", "days": 3, "unit": "C"}}, TIME), 1.0, 5 / 6),
        (hermes({"name": "weather", "arguments": {}}, TIME), 1.0, 0.5),
        (hermes(WEATHER, TIME, TIME, TIME), 0.5, 0.5),
        (hermes(WEATHER, "time"), 0.5, 0.5),
        ("<tool_call>{bad</tool_call>" + hermes(TIME), 0.5, 0.5),
        ("<tool_call>" + json.dumps(WEATHER), 0.5, 0.5),
        ("it rains", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("<tool_call>" * 1_000_000, 0.0, 0.0),
        ("<tool_call>" + "[" * 100_000, 0.0, 0.0),
        ("<tool_call>" + '{"name":"weather","arguments":' * 3_000, 0.0, 0.0),
    ],
    ids=range(16),
)
def test_partial_credit_in_order(completion: str, name: float, arguments: float) -> None:
    found = tool_call(completion, [WEATHER, TIME])
    assert found == pytest.approx({"name": name / 2, "arguments": arguments / 2})
    assert tool_call(completion, [WEATHER, TIME], partial=False) == {"name": 0.0, "arguments": 0.0}


def test_without_order_the_best_matches_count() -> None:
    half = {"name": "weather", "arguments": {"city": "Bern", "days": 4}}
    assert sum(tool_call(hermes(TIME, half), [WEATHER, TIME], ordered=False).values()) == pytest.approx(0.5 + 0.375)
    assert sum(tool_call(hermes(half, WEATHER), [WEATHER, half], ordered=False).values()) == 1.0
    assert tool_call(hermes(TIME, TIME), [WEATHER, TIME], ordered=False, name_share=0.2) == pytest.approx(
        {"name": 0.1, "arguments": 0.4}
    )


def test_no_call_where_none_is_wanted() -> None:
    assert tool_call("It rains.", []) == {"name": 0.5, "arguments": 0.5}
    for calls in (
        hermes(TIME),
        hermes(1),
        json.dumps(TIME),
        json.dumps([1, *openai(TIME)]),
        '{"name":"f","arguments":"["}',
    ):
        assert tool_call(calls, []) == {"name": 0.0, "arguments": 0.0}


@pytest.mark.parametrize("answer", ["42", "true", '"hello"', "[1, 2]", 'For example:\n```json\n{"city": "Bern"}\n```'])
def test_json_that_calls_nothing_is_no_call(answer: str) -> None:
    assert tool_call(answer, []) == {"name": 0.5, "arguments": 0.5}
    assert tool_call(answer, [TIME]) == {"name": 0.0, "arguments": 0.0}


@pytest.mark.parametrize("calls", ["none", [{"arguments": {}}], [1], "[{}]", [{"name": "f", "arguments": "[1]"}]])
def test_a_row_whose_calls_are_none_is_an_error(calls: Any) -> None:
    with pytest.raises(RewardError, match="are no list of"):
        tool_call("x", calls)
