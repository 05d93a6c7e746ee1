"""`areal run` with the weights going through Redis, or directly from memory to memory."""

import os
import signal

import pytest

from .conftest import CONFIGS, StartRun
from .outside import WITHIN_S, Outside
from .test_exposure import is_loopback, listening

pytestmark = pytest.mark.slow

QUICKSTART = CONFIGS / "quickstart.yaml"
SHORT = ("dataset.eval_size=32", "evaluation.every_steps=0")


def test_weights_through_redis_need_no_shared_folder(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "broker.weights=redis", "learner.steps=6", *SHORT)
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert run.summary["steps"] == 6
    assert run.summary["weight_updates"] >= 3
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    assert not (run.directory / "weights").exists()
    assert "passing over" not in run.logs()
    run.await_silence(20)


def test_weights_from_memory_need_no_folder_and_survive_the_worker(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "broker.weights=direct", "learner.steps=8", *SHORT)
    run.await_step(2, WITHIN_S)
    assert "weights travel directly from the learner's memory into the engines': as broker.weights says" in run.text
    assert [f"{name} on {address}" for address, name in listening(run).items() if not is_loopback(address)] == []
    os.kill(Outside(run).everybody()["rollout-0"].pid, signal.SIGKILL)
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert "rollout-0 died" in run.text
    assert run.summary["steps"] == 8
    assert run.summary["weight_updates"] >= 3
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    assert not (run.directory / "weights").exists()
    run.await_silence(20)


def test_weights_from_memory_come_from_the_next_learner(start_run: StartRun) -> None:
    """Of two ranks, the first of which gathers what it hands out."""
    often = "checkpoint.every_steps=2"
    run = start_run(QUICKSTART, "broker.weights=direct", "learner.ranks=2", "learner.steps=1000", often, *SHORT)
    run.await_step(3, WITHIN_S)
    os.kill(Outside(run).everybody()["learner"].pid, signal.SIGKILL)
    before = run.steps()[-1]
    run.await_step(before["step"] + 6, WITHIN_S)
    assert run.steps()[-1]["epoch"] > before["epoch"]
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(WITHIN_S) == 130, f"{run.text}\n{run.logs()}"
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    assert not (run.directory / "weights").exists()
    run.await_silence(20)
