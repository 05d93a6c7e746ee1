"""Runs of the real thing: `areal run` in a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
MARK = "AREAL_TEST_RUN"
"""An environment variable that every process of a run inherits: whoever bears it belongs to the run."""


@dataclass
class Run:
    """An `areal run` under way; its output goes to a file."""

    process: subprocess.Popen[bytes]
    directory: Path
    output: Path
    mark: str
    began: float = field(default_factory=time.monotonic)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"no end within {timeout_s} s:\n{self.text}\n{self.logs()}") from None

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return summary

    def steps(self) -> list[dict[str, Any]]:
        metrics = self.directory / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [record for record in map(json.loads, lines) if record["kind"] == "step"]

    def await_step(self, step: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(record["step"] >= step for record in self.steps()):
            assert self.process.poll() is None, f"ended before step {step}:\n{self.text}\n{self.logs()}"
            assert time.monotonic() < deadline, f"no step {step} within {timeout_s} s:\n{self.text}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        files = sorted((self.directory / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def alive(self) -> list[psutil.Process]:
        """Every process of the run, wherever it hangs in the tree."""
        return [process for process in psutil.process_iter() if _belongs(process, self.mark, self.directory)]

    def await_silence(self, timeout_s: float) -> None:
        """All processes of the run are gone."""
        deadline = time.monotonic() + timeout_s
        while left := self.alive():
            assert time.monotonic() < deadline, f"still alive: {[_shown(process) for process in left]}"
            time.sleep(0.2)


StartRun = Callable[..., Run]


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[StartRun]:
    """Starts `areal run CONFIG overrides…` with its runs under tmp_path; kills what a failed test leaves."""
    runs: list[Run] = []

    def start(config: str | Path, *overrides: str, name: str = "e2e", **environment: str) -> Run:
        mark = f"{os.getpid()}-{tmp_path.name}-{len(runs)}"
        output = tmp_path / f"output-{len(runs)}.txt"
        command = [sys.executable, "-m", "areal", "run", str(config), f"run={name}", f"directory={tmp_path / 'runs'}"]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, *overrides],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                env=os.environ | {MARK: mark} | environment,
                start_new_session=True,
            )
        runs.append(Run(process, tmp_path / "runs" / name, output, mark))
        return runs[-1]

    yield start
    for run in runs:
        for process in run.alive():
            process.send_signal(signal.SIGKILL)


def _belongs(process: psutil.Process, mark: str, directory: Path) -> bool:
    """By its environment; or, as redis-server overwrites that to show its title, by where it stands."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARK) == mark or Path(process.cwd()).is_relative_to(directory)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _shown(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    except psutil.NoSuchProcess:
        return f"{process.pid} gone"
