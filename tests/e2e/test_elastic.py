"""Workers come and go while a run goes on: scaled up and down, joined from outside, killed; nothing is lost or counted twice."""

import os
import re
import signal
from pathlib import Path

import pytest

from .conftest import CONFIGS, StartRun
from .outside import WITHIN_S, Outside

pytestmark = pytest.mark.slow


SLOW = """
import time

def slow(image):
    time.sleep(0.02)
    return -1.0
"""


def test_a_run_goes_on_while_workers_come_from_outside_and_go(start_run: StartRun) -> None:
    run = start_run(CONFIGS / "rlcm_digits_compress.yaml", "learner.steps=100000", "evaluation.every_steps=0")
    run.await_step(2, WITHIN_S)
    outside = Outside(run)
    joining = outside.start("join", outside.url, outside.run.directory.name)
    outside.until(lambda: len(outside.members()) == 2, "a second worker")
    (guest,) = set(outside.members()) - {"rollout-0"}
    outside.until(lambda: outside.groups_of(guest) > 0, "a group of the worker from outside")
    first = outside.members()[guest].pid
    os.kill(first, signal.SIGKILL)
    outside.until(lambda: guest in outside.members() and outside.members()[guest].pid != first, "it comes again")

    joining.send_signal(signal.SIGINT)
    said, _ = joining.communicate(timeout=WITHIN_S)
    assert joining.returncode == 130 and "goes on without them" in said, said
    assert re.search(rf"{guest} died .*SIGKILL.*starting it again in 1 s", said)
    assert set(outside.members()) == {"rollout-0"}

    staying = outside.start("join", outside.url, outside.run.directory.name)
    outside.until(lambda: len(outside.members()) == 2, "another worker")
    run.await_step(run.steps()[-1]["step"] + 5, WITHIN_S)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(WITHIN_S) == 130, f"{run.text}\n{run.logs()}"
    said, _ = staying.communicate(timeout=WITHIN_S)
    assert staying.returncode == 0 and "has ended" in said, said
    summary = run.summary
    assert summary["groups_lost"] == summary["groups_trained_twice"] == summary["dead_letters"] == 0
    assert summary["groups_trained"] == 10 * summary["steps"]
    taken = [prompt for step in run.steps() for prompt in step["prompt_ids"]]
    assert len(taken) == len(set(taken)) and len({step["epoch"] for step in run.steps()}) == 1, (
        "one learner, to the end"
    )
    assert "Traceback" not in run.text
    assert f"{guest} has joined from" in run.text and f"{guest} has left" in run.text
    run.await_silence(20)


def test_two_ranks_and_their_workers_survive_every_death_and_are_scaled(start_run: StartRun) -> None:
    """Two ranks and two workers through Ray; each role killed in turn, and Redis; then three workers, and one."""
    overrides = ("learner.ranks=2", "rollout.workers=2", "learner.steps=100000", "checkpoint.every_steps=4")
    on_loss = "cluster.on_driver_loss=restart"  # which holds for a run that is detached
    run = start_run(CONFIGS / "quickstart.yaml", *overrides, "dataset.eval_size=0", "evaluation.every_steps=0", on_loss)
    run.await_step(2, WITHIN_S)
    assert "cluster.on_driver_loss is restart, which needs --detach" in run.text
    outside = Outside(run)
    for victim in ("rollout-0", "learner-1", "learner"):
        first = outside.everybody()[victim].pid
        os.kill(first, signal.SIGKILL)
        outside.until(lambda: replaced(outside, victim, first), f"another {victim}")  # noqa: B023
        run.await_step(run.steps()[-1]["step"] + 3, WITHIN_S)
        assert f"{victim} died" in run.text
    os.kill(int(outside.client.info("server")["process_id"]), signal.SIGKILL)
    run.await_step(run.steps()[-1]["step"] + 3, WITHIN_S)
    assert "redis died" in run.text

    assert "has 1 rollout worker at work" in outside.scale(1)
    assert "has 3 rollout workers at work" in outside.scale(3)
    newest = max(outside.members())
    outside.until(lambda: outside.groups_of(newest) > 0, "a group of the newest worker")
    assert "has 1 rollout worker at work" in outside.scale(1)
    assert set(outside.members()) == {"rollout-0"}
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(WITHIN_S) == 130, f"{run.text}\n{run.logs()}"
    summary = run.summary
    assert summary["groups_lost"] == summary["groups_trained_twice"] == summary["dead_letters"] == 0
    assert summary["groups_trained"] == 16 * summary["steps"]
    for told in ("rollout workers: 1 → 3 (areal scale)", "rollout workers: 3 → 1 (areal scale)", f"{newest} has left"):
        assert told in run.text
    run.await_silence(20)


def replaced(outside: Outside, name: str, pid: int) -> bool:
    """Whether another process answers by that name."""
    member = outside.everybody().get(name)
    return member is not None and member.pid != pid


def test_workers_follow_the_balance(start_run: StartRun, tmp_path: Path) -> None:
    """A reward that takes its time has the learner wait, and the run takes another worker by itself, and no third."""
    (tmp_path / "slow.py").write_text(SLOW)
    rewards = "rewards.functions=[{name: ./slow.py:slow}]"
    balance = "cluster.autoscale={min: 1, max: 2, every_s: 3}"
    endless = ("learner.steps=100000", "evaluation.every_steps=0")
    run = start_run(CONFIGS / "rlcm_digits_compress.yaml", rewards, balance, *endless)
    run.await_step(2, WITHIN_S)
    outside = Outside(run)
    outside.until(lambda: outside.groups_of("rollout-1") > 0, "a group of a second worker")
    refused = outside.start("scale", run.directory.name, "rollout=1")
    said, _ = refused.communicate(timeout=WITHIN_S)
    assert refused.returncode == 1 and "cluster.autoscale is on" in said
    run.await_step(run.steps()[-1]["step"] + 3, WITHIN_S)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(WITHIN_S) == 130, f"{run.text}\n{run.logs()}"
    assert run.text.count("(cluster.autoscale)") == run.text.count("rollout workers: 1 → 2 (cluster.autoscale)") == 1
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    run.await_silence(20)
