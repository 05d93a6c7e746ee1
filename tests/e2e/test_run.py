"""`areal run`: trains, resumes, drains, and leaves nothing behind however it ends."""

import os
import signal
from pathlib import Path

import pytest

from .conftest import CONFIGS, StartRun

pytestmark = pytest.mark.slow

QUICKSTART = CONFIGS / "quickstart.yaml"
SHORT = ("dataset.eval_size=32", "evaluation.every_steps=0")


def test_the_quickstart_learns_to_write_the_trace(start_run: StartRun) -> None:
    run = start_run(QUICKSTART)
    assert run.wait(400) == 0, f"{run.text}\n{run.logs()}"
    summary = run.summary
    assert summary["eval_first"] < 0.5
    assert summary["eval_last"] >= 0.9
    assert summary["eval_length_first"] < 25
    assert summary["eval_length_last"] >= 34
    assert summary["groups_lost"] == summary["groups_trained_twice"] == summary["dead_letters"] == 0
    assert summary["groups_trained"] == 60 * 16
    assert summary["staleness_max"] <= 4
    assert summary["weight_updates"] >= 10
    assert (run.directory / "reward.png").stat().st_size > 10_000
    assert (run.directory / "model" / "model.safetensors").exists()
    assert "accuracy" in run.text and "Traceback" not in run.text
    run.await_silence(20)


def test_staleness_zero_is_the_synchronous_algorithm_and_a_run_resumes(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "staleness.max=0", "learner.steps=3", *SHORT)
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert [record["staleness_max"] for record in run.steps()] == [0, 0, 0]
    assert all(abs(record["behaviour_weight_mean"] - 1) < 1e-4 for record in run.steps())

    again = start_run(QUICKSTART, "staleness.max=0", "learner.steps=5", *SHORT)
    assert again.wait(300) == 0, f"{again.text}\n{again.logs()}"
    assert "resumed from the checkpoint of step 3" in again.text
    assert [record["step"] for record in again.steps()] == [1, 2, 3, 4, 5]
    taken = [prompt for record in again.steps() for prompt in record["prompt_ids"]]
    assert sorted(taken) == list(range(5 * 16))
    assert again.summary["groups_lost"] == again.summary["groups_trained_twice"] == 0
    again.await_silence(20)


def test_ctrl_c_drains_and_checkpoints(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "learner.steps=1000", *SHORT)
    run.await_step(3, timeout_s=200)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait(90) == 130, f"{run.text}\n{run.logs()}"
    assert "draining" in run.text
    newest = max((run.directory / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{run.summary['steps']:08d}"
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == 0
    run.await_silence(20)


def test_a_killed_driver_leaves_nothing_and_its_run_goes_on(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "learner.steps=1000", "checkpoint.every_steps=2", *SHORT)
    run.await_step(4, timeout_s=200)
    run.process.kill()
    run.process.wait()
    run.await_silence(30)
    reached = max(record["step"] for record in run.steps())

    again = start_run(QUICKSTART, f"learner.steps={reached + 3}", *SHORT)
    assert again.wait(300) == 0, f"{again.text}\n{again.logs()}"
    assert "resumed from the checkpoint" in again.text
    assert again.summary["groups_trained"] == (reached + 3) * 16
    assert again.summary["groups_lost"] == again.summary["groups_trained_twice"] == 0


def test_killed_roles_come_back_and_nothing_is_lost(start_run: StartRun) -> None:
    run = start_run(QUICKSTART, "learner.steps=30", "checkpoint.every_steps=3", *SHORT)
    run.await_step(3, timeout_s=200)
    by_role = {name: _process_of(run.directory / "logs" / f"{name}.log", run) for name in ("rollout-0", "learner")}
    os.kill(by_role["rollout-0"], signal.SIGKILL)
    run.await_step(max(record["step"] for record in run.steps()) + 4, timeout_s=200)
    os.kill(by_role["learner"], signal.SIGKILL)
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert "rollout-0 died" in run.text and "learner died" in run.text
    assert run.summary["groups_trained"] == 30 * 16
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == 0
    assert run.summary["steps"] == 30
    run.await_silence(20)


def _process_of(log: Path, run: "object") -> int:
    """The process that has this log as its standard output, and no parent that has it too."""
    holders = {process.pid: process.ppid() for process in run.alive() if _writes(process.pid, log)}  # type: ignore[attr-defined]
    roots = [pid for pid, parent in holders.items() if parent not in holders]
    assert len(roots) == 1, holders
    return roots[0]


def _writes(pid: int, log: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/fd/1")) == log.resolve()
    except OSError:
        return False
