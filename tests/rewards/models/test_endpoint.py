import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards import counters
from areal.rewards.models.endpoint import Endpoint, Reply

from ..server import Server, serving

MODEL = "echo"


def question(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    counters.drain()
    with serving(MODEL, lambda request: request["messages"][-1]["content"].upper()) as server:
        yield server


def asked(server: Server, *texts: str, **settings: Any) -> list[Reply]:
    return asyncio.run(Endpoint("test", server.url, MODEL, **settings).ask([question(text) for text in texts]))


def test_replies_come_in_the_order_of_the_questions(server: Server) -> None:
    server.finish_reason = "length"
    assert asked(server, "a", "b", "c") == [Reply(text, "length") for text in "ABC"]
    assert server.keys == {"Bearer none"}
    assert {(request["max_tokens"], request["temperature"]) for request in server.asked} == {(512, 0.0)}


def test_what_a_model_refuses_is_left_out_and_more_can_be_said(server: Server) -> None:
    asked(server, "a", max_tokens=None, temperature=None, extra={"max_completion_tokens": 9, "top_k": 1})
    (request,) = server.asked
    assert not {"max_tokens", "temperature"} & request.keys()
    assert (request["max_completion_tokens"], request["top_k"]) == (9, 1)


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_requests_are_under_way_at_once_and_no_more(server: Server, limit: int) -> None:
    server.delay_s = 0.1
    asked(server, *"abcdefg", concurrency=limit)
    assert server.most_at_once == limit and len(server.asked) == 7


@pytest.mark.parametrize("status", [429, 503])
def test_a_failure_is_tried_again_ever_later(server: Server, status: int) -> None:
    server.failures = [(status, {})] * 2
    assert asked(server, "a") == [Reply("A", "stop")]
    first, second = (later - sooner for sooner, later in zip(server.asked_at, server.asked_at[1:], strict=False))
    assert 0.375 <= first < 0.75 <= second < 2  # half a second and a second, each less up to a quarter
    assert counters.drain()["test_retries"] == 2


def test_a_server_may_say_when_to_come_back(server: Server) -> None:
    server.failures = [(429, {"retry-after-ms": "20"})]
    asked(server, "a")
    first, second = server.asked_at
    assert 0.02 <= second - first < 0.3


def test_a_failure_that_stays_is_an_error_and_ends_the_other_requests(server: Server) -> None:
    server.failures = [(400, {})]
    with pytest.raises(RewardError, match=f"{MODEL} at {server.url} did not answer as wanted: .*busy"):
        asked(server, *"abcdefg", concurrency=1)
    assert len(server.asked_at) == 1


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    server.delay_s = 60.0
    with pytest.raises(RewardError, match="did not answer as wanted: Request timed out"):
        asked(server, "a", timeout_s=0.2, retries=0)


def test_an_answer_without_text_tells_that_it_was_cut_off(server: Server) -> None:
    server.says, server.finish_reason = lambda request: None, "length"
    with pytest.raises(RewardError, match=r"it answered with no text, cut off at 7 tokens \(kwargs.max_tokens\): {"):
        asked(server, "a", max_tokens=7)


def test_what_it_takes_is_counted_with_its_cost(server: Server) -> None:
    asked(server, "a", "b", prices=[2.0, 10.0])
    counted = counters.drain()
    assert counted.pop("test_cost") == pytest.approx((200 * 2 + 40 * 10) / 1e6)
    assert counted == {"test_requests": 2, "test_prompt_tokens": 200, "test_completion_tokens": 40}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": -1}, 7])
def test_usage_that_is_not_told_costs_no_reply(server: Server, usage: object) -> None:
    server.usage = usage
    assert asked(server, "a", prices=[1, 1]) == [Reply("A", "stop")]
    counted = counters.drain()
    assert counted.pop("test_requests") == 1 and not any(counted.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, "kwargs.concurrency of test is 0: a whole number from 1"),
        ({"retries": -1}, "kwargs.retries of test is -1: a whole number from 0"),
        ({"timeout_s": 0}, "kwargs.timeout_s of test is 0: seconds above 0"),
        ({"prices": [1.0]}, r"kwargs.prices of test is \[1.0\]: \[input, output\] is wanted"),
        ({"prices": [1.0, float("nan")]}, r"kwargs.prices of test is \[1.0, nan\]"),
        ({"prices": 3}, "kwargs.prices of test is 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Endpoint("test", "http://127.0.0.1:9/v1", MODEL, **settings)


def test_a_model_that_is_not_served_is_told(server: Server) -> None:
    Endpoint("test", server.url, MODEL).require_served()
    with pytest.raises(ConfigError, match=rf"does not serve 'other' \(kwargs.model\) but {MODEL}"):
        Endpoint("test", server.url, "other").require_served()
