"""What a driver says of itself, and what is asked of it."""

import json
import logging
from dataclasses import replace

import pytest

from areal.broker.client import Client
from areal.broker.helm import FAILED, STOP, STOP_NOW, Driving, Helm
from areal.broker.keys import Keys

DRIVING = Driving("aa", "mine", "running", 12, "box", 1.5, "/runs/mine", step=3, steps=60, reward=0.25, staleness=1.5)


@pytest.fixture
def helm(client: Client, run: str) -> Helm:
    return Helm(client, run)


def test_the_newest_word_of_a_driver_is_heard_with_its_age(helm: Helm, client: Client, run: str) -> None:
    assert helm.heard() is None
    helm.tell(DRIVING)
    ended = replace(DRIVING, invocation="bb", state=FAILED, guard=7, exit_code=2, error="é\n")
    helm.tell(ended)
    heard = helm.heard()
    assert heard is not None and heard[0] == ended and 0 <= heard[1] < 5
    at_ms, _, rest = client.hget(Keys(run).driver, "driver").partition(b" ")  # type: ignore[union-attr]
    client.hset(Keys(run).driver, "driver", f"{int(at_ms) - 30_000} ".encode() + rest)
    heard = helm.heard()
    assert heard is not None and 30 <= heard[1] < 35


def test_only_the_driver_that_is_meant_is_asked(helm: Helm) -> None:
    assert helm.asked("aa") is None
    helm.ask(STOP, "aa")
    assert helm.asked("aa") == STOP and helm.asked("bb") is None and helm.asked("") is None
    helm.ask(STOP_NOW, "bb")
    assert helm.asked("aa") is None and helm.asked("bb") == STOP_NOW


def test_a_request_that_is_none_is_not_heard(helm: Helm, client: Client, run: str) -> None:
    for odd in (b"aa dance", b"aa", b"\xff\xff", b"stop", b" stop"):
        client.set(Keys(run).asked, odd)
        assert helm.asked("aa") is None


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"12",
        b"12 [",
        b"x " + DRIVING.to_json().encode(),
        b"9" * 40 + b" " + DRIVING.to_json().encode(),
        b"12 " + json.dumps(json.loads(DRIVING.to_json()) | {"pid": "x"}).encode(),
        b"12 " + json.dumps(json.loads(DRIVING.to_json()) | {"state": "dancing"}).encode(),
        b"12 " + json.dumps(json.loads(DRIVING.to_json()) | {"step": [1]}).encode(),
        b"12 " + b"[" * 60_000,
    ],
)
def test_what_describes_no_driver_is_left_out(helm: Helm, client: Client, run: str, odd: bytes) -> None:
    client.hset(Keys(run).driver, "driver", odd)
    assert helm.heard() is None


def test_a_long_error_is_cut_and_the_rest_comes_through(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        back = Driving.of_json(replace(DRIVING, error="ü" * 100_000).to_json())
    assert back is not None and back.error == "ü" * 8_000 and caplog.messages == []
