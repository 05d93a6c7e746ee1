"""`areal dead`, `areal runs` and `areal purge` beside the real thing: a reward that fails, and then is mended."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import CONFIGS, Run, StartRun

pytestmark = pytest.mark.slow

REWARD = """
from pathlib import Path

def picky(prompt, completion, answer):
    if prompt.endswith("7") and not Path(__file__).with_name("mended").exists():
        raise ValueError(f"[red]cannot bear {prompt}\\x1b[0m")
    return float(completion.rpartition("#")[2] == answer)
"""
SHORT = ("dataset.eval_size=32", "evaluation.every_steps=0", "checkpoint.every_steps=2")


class Areal:
    """`areal …` in the folder that the runs are started from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "areal", *arguments]
        return subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=120, check=False)

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def trained(run: Run) -> set[int]:
    return {position for step in run.steps() for position in step["prompt_ids"]}


def test_dead_letters_are_shown_tried_again_and_dropped(start_run: StartRun, tmp_path: Path) -> None:
    areal = Areal(tmp_path)
    (tmp_path / "picky.py").write_text(REWARD)
    overrides = ("rewards.functions=[{name: ./picky.py:picky}]", *SHORT)
    run = start_run(CONFIGS / "quickstart.yaml", "learner.steps=1000", *overrides)
    run.await_step(2, timeout_s=200)
    (seen,) = areal.json("runs")
    assert (seen["name"], seen["state"]) == ("e2e", "running") and {m["name"] for m in seen["roll"]} == {
        "learner",
        "rollout-0",
    }
    refused = areal("purge", "e2e", "--yes")
    assert refused.returncode == 1 and "learner (process" in refused.stderr and "rollout-0 (process" in refused.stderr
    letters = areal.json("dead", "list", "e2e")
    assert letters and all(letter["from"] == "prompt" and letter["attempts"] == 3 for letter in letters)
    told = areal("dead", "retry", "e2e", letters[0]["entry"])
    assert told.stdout == "1 dead letter of e2e will be tried again, as soon as the learner has room\n"
    deadline = time.monotonic() + 100
    while letters[0]["position"] not in {letter["position"] for letter in areal.json("dead", "list", "e2e")}:
        assert time.monotonic() < deadline, f"it has not died again:\n{run.text}"
    assert letters[0]["entry"] not in {letter["entry"] for letter in areal.json("dead", "list", "e2e")}
    run.process.send_signal(signal.SIGINT)
    assert run.wait(90) == 130, run.text
    run.await_silence(20)

    (seen,) = areal.json("runs")
    assert (seen["state"], seen["keys"]) == ("stopped", None)
    assert "areal dead list e2e tells why" in run.text
    listed = areal("dead", "list", "e2e")
    assert listed.returncode == 0 and "ValueError: [red]cannot bear" in listed.stdout
    assert "\x1b" not in listed.stdout and "\\x1b[0m" in listed.stdout
    retried, dropped, left = areal.json("dead", "list", "e2e")[:3]
    shown = areal("dead", "show", "e2e", retried["entry"])
    assert "picky.py" in shown.stdout and '"answer": ' in shown.stdout and "worker    rollout-0" in shown.stdout
    assert "when the run is next started" in areal("dead", "retry", "e2e", retried["entry"]).stdout
    assert "never issued again" in areal("dead", "drop", "e2e", dropped["entry"]).stdout
    run.await_silence(20)

    (tmp_path / "mended").touch()
    steps = run.summary["steps"] + 10  # more than the groups that wait already are enough for
    second = start_run(CONFIGS / "quickstart.yaml", f"learner.steps={steps}", *overrides)
    assert second.wait(200) == 0, f"{second.text}\n{second.logs()}"
    assert {each["entry"] for each in areal.json("dead", "list", "e2e")}.isdisjoint(
        {retried["entry"], dropped["entry"]}
    )
    assert left["entry"] in {each["entry"] for each in areal.json("dead", "list", "e2e")}
    assert retried["position"] in trained(second)
    assert not {dropped["position"], left["position"]} & trained(second)
    assert second.summary["groups_lost"] == second.summary["groups_trained_twice"] == 0
    purged = areal("purge", "e2e", "--yes")
    assert purged.returncode == 0 and "keys of e2e deleted" in purged.stdout
    assert areal("dead", "list", "e2e").stdout == "e2e has no dead letters\n"
    assert (second.directory / "model" / "model.safetensors").exists()
    second.await_silence(20)
