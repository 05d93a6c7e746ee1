"""A run that is left, looked at from elsewhere, stopped, resumed, and killed: on a real driver, Ray and Redis."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import CONFIGS, MARK, Run

pytestmark = pytest.mark.slow

IMAGES = CONFIGS / "rlcm_digits_compress.yaml"
ENDLESS = ("learner.steps=100000", "evaluation.every_steps=0", "checkpoint.every_steps=5")


class Background:
    """`areal …` in a folder, each command a process of its own; every process that comes of them bears the mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{os.getpid()}-{folder.name}"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "areal", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {MARK: self.mark},
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out

    def detach(self, *overrides: str) -> Run:
        """A run that is under way in the background."""
        code, out = self("run", str(IMAGES), "run=left", "--detach", *overrides)
        assert code == 0 and "left runs in the background" in out, out
        return self.run

    @property
    def run(self) -> Run:
        nobody = subprocess.Popen(["true"])
        nobody.wait()
        return Run(nobody, self.folder / "runs" / "left", self.folder / "runs/left/logs/driver.log", self.mark)

    def driver(self) -> dict[str, object]:
        told: dict[str, object] = json.loads((self.folder / "runs/left/driver.json").read_text())
        return told


@pytest.fixture
def areal(tmp_path: Path) -> Iterator[Background]:
    background = Background(tmp_path)
    yield background
    for _ in range(2):  # a guard may have started another driver meanwhile
        for process in background.run.alive():
            process.send_signal(signal.SIGKILL)
    for started in background.started:
        started.communicate(timeout=20)


def await_step(run: Run, step: int, timeout_s: float = 250) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(record["step"] >= step for record in run.steps()):
        assert time.monotonic() < deadline, f"no step {step}:\n{run.text}\n{run.logs()}"
        time.sleep(0.2)


def test_a_run_is_left_followed_stopped_and_resumed(areal: Background) -> None:
    run = areal.detach(*ENDLESS)
    viewer = areal.start("attach", "left")
    await_step(run, 3)
    code, out = areal("status", "left", "--json")
    seen = json.loads(out)
    assert code == 0 and seen["state"] == "running" and seen["step"] >= 3 and seen["steps"] == 100_000
    assert {member["name"] for member in seen["roll"]} == {"learner", "rollout-0"}
    code, out = areal("logs", "left")
    assert code == 0 and out.startswith("learner  ") and "at step 0 of 100000, waiting for groups" in out
    code, out = areal("run", str(IMAGES), "run=left", "--detach", *ENDLESS)
    assert code == 1 and "is in use by process" in out
    code, out = areal("stop", "left")
    assert code == 0, out
    assert areal.driver()["state"] == "stopped" and areal.driver()["exit_code"] == 130
    shown, _ = viewer.communicate(timeout=60)
    assert viewer.returncode == 130 and "asked to stop" in shown and "stopped before the end" in shown
    run.await_silence(20)
    code, out = areal("stop", "left")
    assert code == 1 and "left is not under way: it was stopped" in out
    stopped_at = run.summary["steps"]
    assert (run.directory / "checkpoints" / f"step-{stopped_at:08d}").is_dir()

    more = (f"learner.steps={stopped_at + 3}", *ENDLESS[1:])
    areal.detach(*more)
    assert areal("attach", "left")[0] == 0
    assert f"resumed from the checkpoint of step {stopped_at}" in run.text
    assert run.summary["groups_trained"] == 10 * (stopped_at + 3)
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    code, out = areal("status", "left", "--json")
    assert code == 0 and json.loads(out)["state"] == "done"
    run.await_silence(20)


def test_a_stop_that_comes_while_it_starts_is_heard(areal: Background) -> None:
    starting = areal.start("run", str(IMAGES), "run=left", "--detach", *ENDLESS)
    deadline = time.monotonic() + 60
    while not (areal.folder / "runs/left/driver.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    code, out = areal("stop", "left")
    assert code == 0 and areal.driver()["state"] == "stopped", out
    starting.communicate(timeout=60)
    assert starting.returncode == 130
    areal.run.await_silence(20)


def test_nothing_is_left_of_a_driver_that_is_killed(areal: Background) -> None:
    run = areal.detach(*ENDLESS)
    await_step(run, 6)
    pid = areal.driver()["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    run.await_silence(90)  # Ray's agents look for their parent now and then
    code, out = areal("status", "left", "--json")
    assert code == 0 and json.loads(out)["state"] == "gone"
    areal.detach(f"learner.steps={run.steps()[-1]['step'] + 3}", *ENDLESS[1:])
    assert areal("attach", "left")[0] == 0
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    run.await_silence(20)


def test_a_driver_that_is_guarded_is_started_again(areal: Background) -> None:
    run = areal.detach("cluster.on_driver_loss=restart", *ENDLESS)
    await_step(run, 6)
    viewer = areal.start("attach", "left")
    assert viewer.stdout is not None and viewer.stdout.readline(), "it shows a step"
    first = areal.driver()
    assert isinstance(first["pid"], int) and isinstance(first["guard"], int)
    at = run.steps()[-1]["step"]
    os.kill(first["pid"], signal.SIGKILL)
    await_step(run, at + 20)
    assert areal.driver()["pid"] != first["pid"] and areal.driver()["guard"] == first["guard"]
    assert areal("stop", "left")[0] == 0
    assert "another driver has taken the place" in viewer.communicate(timeout=60)[0] and viewer.returncode == 130
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    run.await_silence(20)


def test_a_run_whose_terminal_is_closed_drains(areal: Background) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(areal.folder)
        os.environ[MARK] = areal.mark
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a run goes on
        os.execv(sys.executable, [sys.executable, "-m", "areal", "run", str(IMAGES), "run=left", *ENDLESS])
    os.set_blocking(terminal, False)
    run, deadline = areal.run, time.monotonic() + 250
    while not any(record["step"] >= 3 for record in run.steps()):
        assert time.monotonic() < deadline, run.logs()
        try:
            os.read(terminal, 65_536)
        except BlockingIOError:
            time.sleep(0.1)
    os.close(terminal)
    assert exit_code_of(pid, within_s=150) == 130, run.logs()
    assert areal.driver()["state"] == "stopped" and "stopped before the end" in run.text
    assert (run.directory / "checkpoints" / f"step-{run.summary['steps']:08d}").is_dir()
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == 0
    run.await_silence(20)
    assert not psutil.pid_exists(pid)


def exit_code_of(pid: int, *, within_s: float) -> int:
    """What a child ends with."""
    deadline = time.monotonic() + within_s
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.1)
    return os.waitstatus_to_exitcode(ended[1])
