"""`areal join`, as a person calls it: what is wrong before anything is started."""

import json
import socket
import time
from collections.abc import Callable

import pytest

from areal.broker.bulletin import DRAIN, RUN
from areal.broker.client import Client
from areal.broker.helm import DONE, FAILED, STARTING, STOPPED
from areal.broker.keys import Keys
from areal.launch.config import load_run_config
from areal.launch.control import locate
from areal.launch.fleet import join
from areal.launch.fleet.offer import write_offer

from ..conftest import Areal
from .meadow import CONFIG, Meadow, meanwhile


def refusal(areal: Areal, url: str, run: str, *arguments: str, code: int) -> str:
    got, out, err = areal("join", url, run, *arguments)
    assert got == code and out == "", (got, out, err)
    return err


def test_a_run_that_cannot_be_joined_says_why(
    meadow: Meadow, areal: Areal, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "ANSWER_S", 1.0)
    assert "there is no run 'nosuch' on redis" in refusal(areal, redis_url, "nosuch", code=1)
    assert "did not answer" in refusal(areal, "redis://127.0.0.1:1/0", meadow.key, code=1)
    assert "broker.url is not of the form" in refusal(areal, "http://127.0.0.1/", meadow.key, code=2)
    meadow.bulletin.keep_order(DRAIN)
    assert "is ending, or has ended" in refusal(areal, redis_url, meadow.key, code=1)
    client.delete(Keys(meadow.key).offer)
    assert "has not offered its configuration yet" in refusal(areal, redis_url, meadow.key, code=1)
    client.set(Keys(meadow.key).offer, b"{")
    meadow.bulletin.keep_order(RUN)
    assert "is no configuration" in refusal(areal, redis_url, meadow.key, code=2)
    client.set(Keys(meadow.key).offer, b" " * (2**20 + 1))
    assert "holds more than" in refusal(areal, redis_url, meadow.key, code=2)


def test_a_run_that_nobody_drives_is_not_joined(meadow: Meadow, areal: Areal, redis_url: str, client: Client) -> None:
    """Though its order is to run, as one that was killed leaves it."""
    instead = ". Workers join it once `areal run` has been started again"
    for state, told in (
        (DONE, "it is done"),
        (STOPPED, "it was stopped"),
        (FAILED, "it has failed (exit code 1): boom"),
    ):
        meadow.drive(state, error="boom" if state == FAILED else "")
        said = refusal(areal, redis_url, meadow.key, code=1)
        assert f"{meadow.key} is not under way: {told}" in said and instead in said
    meadow.drive()
    meadow.has_been_silent(60)
    said = refusal(areal, redis_url, meadow.key, code=1)
    assert "its driver (process 12 on box) was killed" in said and instead in said
    client.delete(Keys(meadow.key).driver)
    assert "no driver of it is known" in refusal(areal, redis_url, meadow.key, code=1)


def test_the_next_driver_of_a_run_with_a_guard_is_waited_for(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    meadow.drive(guard=7)
    meadow.has_been_silent(60)

    def act() -> None:
        time.sleep(0.5)
        meadow.drive(STARTING, guard=7)
        meadow.await_members(1)
        meadow.drive(DONE)

    with meanwhile(act):
        assert areal("join", redis_url, meadow.key)[0] == 0


def test_what_does_not_fit_this_host_says_what_to_do(
    meadow: Meadow, areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(areal, redis_url, meadow.key, "model.path=/nosuch", code=2)
    assert "there is no model '/nosuch'" in said and "model.path=…" in said
    monkeypatch.setattr(join, "LOOK_S", 0.01)
    said = refusal(areal, redis_url, meadow.key, "directory=/nosuch", code=2)
    assert f"shared in /nosuch/{meadow.key}/weights, which cannot be seen from here" in said
    assert "broker.weights=redis" in said
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "RAY_ADDRESS names no cluster" in refusal(areal, redis_url, meadow.key, "rewards.where=ray", code=2)
    meadow.offer("denoising.consistency_lora=/nosuch/lora")
    said = refusal(areal, redis_url, meadow.key, code=2)
    assert "denoising.consistency_lora is /nosuch/lora, and there is no such folder here" in said


def test_weights_of_another_directory_are_not_taken_for_the_runs(
    meadow: Meadow, areal: Areal, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that path is here, and it is not the one that the learner writes to."""
    monkeypatch.setattr(join, "LOOK_S", 0.01)
    client.xadd(Keys(meadow.key).weights, {"version": "3", "name": "00000003-17", "digest": "1"})
    assert "cannot be seen from here" in refusal(areal, redis_url, meadow.key, code=2)


def test_a_learner_that_hands_out_weights_must_be_reached(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, client: Client
) -> None:
    texts = load_run_config(CONFIG.with_name("quickstart.yaml"), [f"run={meadow.key}", "broker.weights=direct"])
    meadow.fleet.keep_offer(write_offer(texts))
    with socket.create_server(("127.0.0.1", 0)) as learner:
        depot = {"epoch": 1, "host": "127.0.0.1", "port": learner.getsockname()[1], "token": "x" * 22}
        client.set(Keys(meadow.key).depot, json.dumps(depot))

        def act() -> None:
            meadow.await_members(1)
            meadow.bulletin.keep_order(DRAIN)

        with meanwhile(act):
            code, _, _ = areal("join", redis_url, meadow.key, "directory=/nosuch")
        assert code == 0
    meadow.bulletin.keep_order(RUN)
    said = refusal(areal, redis_url, meadow.key, code=2)
    assert f"hands out its weights at 127.0.0.1, port {depot['port']}, which cannot be reached from here" in said
    assert "broker.weights=redis" in said


def test_weights_through_redis_want_no_directory(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    meadow.offer(
        "broker.weights=redis", "cluster.env.rollout={MINE_ALONE: 2, PATH: /nosuch}", "cluster.pass_env=[MY_KEY]"
    )

    def act() -> None:
        meadow.await_members(1)
        meadow.bulletin.keep_order(DRAIN)

    with meanwhile(act):
        code, out, _ = areal("join", redis_url, meadow.key, "directory=/nosuch")
    assert code == 0 and "have MINE_ALONE, MY_KEY in their environment" in out


def test_there_is_one_role_to_join_as(areal: Areal) -> None:
    for arguments in (("--role", "learner"), ("--workers", "0")):
        assert areal("join", "redis://x/0", "run", *arguments)[0] == 2
