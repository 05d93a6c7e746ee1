"""How the control plane scales with rollout workers: groups/s, tokens/s and steps/h against what as many engines could do.

    python benchmarks/cluster.py            prints a table, writes benchmarks/results/cluster.json

All is real but the engine and the mathematics: the broker on its append-only file, leases, heartbeats, the codec, the
versions of the weights, which every worker follows (a folder of 64 KB), the learner's source and feeder, its bound on what
is outstanding, and acknowledgement. An engine answers every request after a fixed time, and so costs no core; a worker has
a few groups under way at once. A step takes its groups, publishes a version and trains nothing.

Up to four workers are a process each, as in a run; more of them are simulated: tasks of four processes, each with its own
connections, leases and threads. Redis and all processes share the cores of one machine, so from some number on it is these
that are measured. The counts are taken in turn, in random order; the table shows medians. Efficiency is groups/s against
as many times what one worker does; of the ideal, against engines that never wait.

A group counts by the share of its generation that lies in the window that is measured, so that no edge makes a difference.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import connect
from areal.broker.config import BrokerConfig
from areal.broker.keys import EVAL, TRAIN
from areal.broker.lane import Delivery, Lane
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Prompt, TokenTrajectory
from areal.broker.weights import WeightStore, open_store
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.feeder import Feeder, Flow
from areal.learner.ledger import Ledger
from areal.learner.source import GroupSource
from areal.rollout.config import RolloutConfig
from areal.rollout.engine import Completion, Request
from areal.rollout.follower import WeightFollower
from areal.rollout.worker import Parts, RolloutWorker, Served
from areal.rollout.workflow import trajectory_of

RESULTS = Path(__file__).parent / "results" / "cluster.json"
COUNTS = (1, 2, 4, 8, 16, 32)
MAX_PROCESSES = 4
GROUP_SIZE, UNDER_WAY, TOKENS = 4, 4, 500
"""Answers to a prompt, groups that a worker has under way at once, tokens of an answer."""

GROUPS_PER_STEP, STALENESS, CHECKPOINT_EVERY = 32, 7, 4
"""So that (η + 1)·B prompts are twice what 32 workers have under way; groups are acknowledged every so many steps."""

WEIGHTS_BYTES = 64 * 2**10
WARM_UP_S = 3.0
PATIENCE_S = 60.0
THREADS = 6
"""That one worker has beside its event loop on a machine of two cores, as asyncio has it."""

BROKER = BrokerConfig()
PROMPT = tuple(range(50))


@dataclass(frozen=True)
class Spec:
    """What a process of workers is told."""

    url: str
    run: str
    directory: str
    names: list[str]
    latency_s: float


class FixedLatencyEngine:
    """Answers after `latency_s`, always the same."""

    def __init__(self, latency_s: float) -> None:
        rng = np.random.default_rng(0)
        self._latency_s = latency_s
        self._version = -1
        self._tokens = rng.integers(0, 50_000, TOKENS).astype(np.int32)
        self._logprobs = -rng.random(TOKENS).astype(np.float32)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(self, request: Request) -> Completion:
        version = self._version
        await asyncio.sleep(self._latency_s)
        return Completion(self._tokens, self._logprobs, np.full(TOKENS, version, np.int32), "", "length")

    async def update_weights(self, version: int, path: Path) -> float:
        self._version = version
        return 0.0


class Halves:
    """A workflow of G answers, every other one right."""

    async def run(self, prompt: Prompt, engine: Any) -> list[TokenTrajectory]:
        request = Request(PROMPT, TOKENS, 1.0)
        answers = await asyncio.gather(*(engine.generate(request) for _ in range(prompt.group_size)))
        return [trajectory_of(PROMPT, answer, float(place % 2), {}) for place, answer in enumerate(answers)]


# A process of workers


async def work(spec: Spec) -> None:
    """Be all its workers until the run is told to drain."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS * len(spec.names)))
    await asyncio.gather(*(work_as(spec, name) for name in spec.names))


async def work_as(spec: Spec, name: str) -> None:
    client, engine = connect(spec.url), FixedLatencyEngine(spec.latency_s)
    store = open_store(client, spec.run, BROKER, Path(spec.directory))
    lanes = ((EVAL, 1), (TRAIN, GROUP_SIZE))
    parts = Parts(
        engine=engine,
        workflow=Halves(),
        follower=WeightFollower(store, engine, timeout_s=PATIENCE_S),
        lanes=tuple(Served(Tickets(client, spec.run, lane, BROKER), size) for lane, size in lanes),
        bulletin=Bulletin(client, spec.run),
    )
    await RolloutWorker(name, parts, RolloutConfig(max_concurrent=UNDER_WAY * GROUP_SIZE), BROKER).run()


@contextmanager
def workers(url: str, run: str, directory: Path, count: int, latency_s: float) -> Iterator[list[psutil.Process]]:
    """So many of them, in at most MAX_PROCESSES processes, told to drain at the end."""
    names = [f"rollout-{index}" for index in range(count)]
    shares = [names[first::MAX_PROCESSES] for first in range(min(count, MAX_PROCESSES))]
    processes = []
    for share in shares:
        process = subprocess.Popen(
            [sys.executable, __file__, "--workers"],
            stdin=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(Spec(url, run, str(directory), share, latency_s))).encode())
        process.stdin.close()
        processes.append(process)
    try:
        yield [psutil.Process(process.pid) for process in processes]
        with connect(url) as client:
            Bulletin(client, run).keep_order(DRAIN)
        for process in processes:
            assert process.wait(PATIENCE_S) == 0, "a worker failed"
    finally:
        for process in processes:
            process.kill()
            process.wait()


# The side that takes


class Taker:
    """A learner but for the learning."""

    def __init__(self, url: str, run: str, directory: Path) -> None:
        self._client = connect(url)
        self._epoch = Bulletin(self._client, run).lead()
        Bulletin(self._client, run).keep_order(RUN)
        lane = Lane(self._client, run, TRAIN)
        self._source = GroupSource(lane, Ledger(), epoch=self._epoch)
        flow = Flow((STALENESS + 1) * GROUPS_PER_STEP, 0, GROUP_SIZE, self._epoch)
        self._feeder = Feeder(lane, Dataset(DatasetConfig(source="sort", eval_size=0)), self._source, flow)
        self._store: WeightStore = open_store(self._client, run, BROKER, directory)
        self._version = 0
        self.taken: list[Delivery] = []
        self.steps_at: list[float] = []

    def step(self) -> None:
        """Take a batch, publish a version; at times acknowledge."""
        taken = self._source.take(GROUPS_PER_STEP, timeout_s=PATIENCE_S, idle=self._idle)
        self._source.settle(taken)
        self.taken += taken
        self.steps_at.append(time.time())
        self.publish()
        self._idle()
        if len(self.steps_at) % CHECKPOINT_EVERY == 0:
            self._source.acknowledge(self._source.settled())

    def publish(self) -> None:
        self._version += 1
        self._store.publish(self._version, _write, epoch=self._epoch)

    def start(self) -> None:
        self._source.start()
        self.publish()

    def close(self) -> None:
        self._source.close()
        self._client.close()

    def _idle(self) -> bool:
        self._feeder.top_up(version=0, needed=10**9)
        return False


def _write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))


@dataclass(frozen=True)
class Row:
    """One window. `cpu_ms` of a group: what the processes of workers, the taking side and Redis took for it."""

    workers: int
    groups_per_s: float
    tokens_per_s: float
    steps_per_h: float
    of_ideal: float
    cpu_ms: dict[str, float]


def measure(server: EmbeddedRedis, count: int, *, latency_s: float, for_s: float, folder: Path) -> Row:
    """A window of `for_s` once all workers are warm, and a moment more for what was begun in it to come."""
    run, directory = f"cluster-{count}-{time.time_ns()}", folder / f"weights-{time.time_ns()}"
    taker = Taker(server.url, run, directory)
    taker.start()
    try:
        with workers(server.url, run, directory, count, latency_s) as processes:
            while not _all_at_work(taker, count):
                taker.step()
            begins = time.time() + WARM_UP_S
            while time.time() < begins:
                taker.step()
            parties = {"workers": processes, "taker": [psutil.Process()], "redis": [psutil.Process(server.pid)]}
            begins, before = time.time(), {name: _cpu_s(party) for name, party in parties.items()}
            while time.time() < begins + for_s:
                taker.step()
            ends, after = time.time(), {name: _cpu_s(party) for name, party in parties.items()}
            while min(delivery.group.started_at for delivery in taker.taken[-GROUPS_PER_STEP:]) < ends:
                taker.step()
    finally:
        taker.close()
    groups = sum(
        _share(delivery.group.started_at, delivery.group.finished_at, begins, ends) for delivery in taker.taken
    )
    groups_per_s = groups / (ends - begins)
    steps = [later - earlier for earlier, later in pairwise(taker.steps_at) if later >= begins]
    return Row(
        workers=count,
        groups_per_s=groups_per_s,
        tokens_per_s=groups_per_s * GROUP_SIZE * TOKENS,
        steps_per_h=3600 / statistics.mean(steps),
        of_ideal=groups_per_s * latency_s / (count * UNDER_WAY),
        cpu_ms={name: 1000 * (after[name] - before[name]) / groups for name in before},
    )


def _all_at_work(taker: Taker, count: int) -> bool:
    return len({delivery.group.worker for delivery in taker.taken}) == count


def _share(started: float, finished: float, begins: float, ends: float) -> float:
    """How much of the time from start to finish lies in the window."""
    return max(0.0, min(finished, ends) - max(started, begins)) / (finished - started)


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


# The whole


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Medians for each number of workers, and the efficiency of each against the smallest number."""
    counts = sorted({row.workers for row in rows})
    found = []
    for count in counts:
        own = [row for row in rows if row.workers == count]
        told = {
            name: statistics.median(getattr(row, name) for row in own)
            for name in ("groups_per_s", "tokens_per_s", "steps_per_h", "of_ideal")
        }
        cpu = {party: statistics.median(row.cpu_ms[party] for row in own) for party in own[0].cpu_ms}
        found.append({"workers": count, **told, "cpu_ms_per_group": cpu})
    first = found[0]["groups_per_s"] / found[0]["workers"]
    for each in found:
        each["efficiency"] = each["groups_per_s"] / (each["workers"] * first)
    return found


def show(found: Sequence[dict[str, Any]]) -> None:
    titles = ("workers", "groups/s", "tokens/s", "steps/h", "efficiency", "of ideal")
    table = Table(*titles, "CPU, ms a group", caption="CPU of workers, of the side that takes, and of Redis")
    for each in found:
        cpu = each["cpu_ms_per_group"]
        table.add_row(
            str(each["workers"]),
            f"{each['groups_per_s']:,.1f}",
            f"{each['tokens_per_s']:,.0f}",
            f"{each['steps_per_h']:,.0f}",
            f"{each['efficiency']:.3f}",
            f"{each['of_ideal']:.3f}",
            " + ".join(f"{cpu[party]:.1f}" for party in ("workers", "taker", "redis")),
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of workers")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default 3)")
    parser.add_argument("--for-s", type=float, default=20.0, help="seconds of a window (default 20)")
    parser.add_argument("--latency-s", type=float, default=1.0, help="seconds for an answer (default 1)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--workers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workers:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.run(work(Spec(**json.loads(sys.stdin.read()))))
        return
    rows, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder) / "redis")
        server.start()
        try:
            for _ in range(options.rounds):
                for count in random.sample(options.counts, len(options.counts)):
                    loads.append(os.getloadavg()[0])
                    rows.append(
                        measure(server, count, latency_s=options.latency_s, for_s=options.for_s, folder=Path(folder))
                    )
                    print(
                        f"{count} workers: {rows[-1].groups_per_s:.1f} groups/s, {rows[-1].of_ideal:.3f} of ideal",
                        flush=True,
                    )
        finally:
            server.stop()
    found = summarise(rows)
    show(found)
    machine = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": statistics.median(loads),
    }
    versions = {name: version(name) for name in ("redis", "hiredis", "numpy", "msgpack")}
    command = " ".join(["python", "benchmarks/cluster.py", *sys.argv[1:]])
    result = {"command": command, "machine": machine, "versions": versions, "rounds": options.rounds, "rows": found}
    options.output.write_text(json.dumps(result | {"windows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
