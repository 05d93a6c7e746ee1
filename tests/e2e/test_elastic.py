"""Workers come and go while a run goes on: scaled up and down, joined from outside, killed; nothing is lost or counted twice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, connect
from areal.broker.rollcall import Member, RollCall

from .conftest import CONFIGS, MARK, Run, StartRun

pytestmark = pytest.mark.slow

WITHIN_S = 120.0


class Outside:
    """Looks at a run by its Redis, and calls the commands beside it, as a person would."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.url = (run.directory / "redis" / "url").read_text()
        self.key = f"{run.directory.name}-{(run.directory / '.id').read_text().strip()}"
        self.client: Client = connect(self.url, timeout_s=10.0)
        self._bulletin = Bulletin(self.client, self.key)
        self._after = self._bulletin.last()
        self._groups: dict[str, int] = {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "areal", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.run.directory.parents[1],
            env=os.environ | {MARK: self.run.mark},
            start_new_session=True,
        )

    def scale(self, count: int) -> str:
        process = self.start("scale", self.run.directory.name, f"rollout={count}", "--timeout", f"{WITHIN_S:g}")
        said, _ = process.communicate(timeout=2 * WITHIN_S)
        assert process.returncode == 0, f"{said}\n{self.run.text}\n{self.run.logs()}"
        return said

    def members(self) -> dict[str, Member]:
        """The workers at work."""
        heard = RollCall(self.client, self.key, silent_after_s=5.0).heard()
        return {
            each.member.name: each.member
            for each in heard
            if each.member.role == "rollout" and not each.silent and each.member.version >= 0
        }

    def groups_of(self, worker: str) -> int:
        """How many a worker has completed, by its newest record."""
        records, self._after = self._bulletin.read(self._after, timeout_s=0.01)
        for record in records:
            if record["kind"] == "worker":
                self._groups[record["worker"]] = record["groups_completed"]
        return self._groups.get(worker, 0)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert self.run.process.poll() is None, f"the run ended: {self.run.text}\n{self.run.logs()}"
            assert time.monotonic() < deadline, f"{what} did not come about\n{self.run.text}\n{self.run.logs()}"
            time.sleep(0.2)


def test_a_run_goes_on_while_workers_come_and_go(start_run: StartRun) -> None:
    run = start_run(CONFIGS / "rlcm_digits_compress.yaml", "learner.steps=100000", "evaluation.every_steps=0")
    run.await_step(2, WITHIN_S)
    outside = Outside(run)
    assert "has 3 rollout workers at work" in outside.scale(3)
    assert set(outside.members()) == {"rollout-0", "rollout-1", "rollout-2"}
    joining = outside.start("join", outside.url, outside.run.directory.name)
    outside.until(lambda: outside.groups_of("rollout-2") > 0, "a group of the newest worker")
    outside.until(lambda: len(outside.members()) == 4, "a fourth worker")
    (guest,) = set(outside.members()) - {"rollout-0", "rollout-1", "rollout-2"}
    outside.until(lambda: outside.groups_of(guest) > 0, "a group of the worker from outside")
    first = outside.members()[guest].pid
    os.kill(first, signal.SIGKILL)
    outside.until(lambda: guest in outside.members() and outside.members()[guest].pid != first, "it comes again")

    assert "has 1 rollout worker at work" in outside.scale(1)
    assert set(outside.members()) == {"rollout-0", guest}
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
    for told in ("rollout workers: 1 → 3 (areal scale)", "rollout workers: 3 → 1 (areal scale)", "rollout-2 has left"):
        assert told in run.text
    assert f"{guest} has joined from" in run.text and f"{guest} has left" in run.text
    run.await_silence(20)
