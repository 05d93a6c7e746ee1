"""What rewards cost: calls a second, what isolation adds to a call, how late a deadline is kept, how long a sandbox takes.

    python benchmarks/rewards.py            prints a table, writes benchmarks/results/rewards.json

All through the pool, as a rollout worker has it: two processes, 64 calls under way, typical answers of GSM8K's length for
`math` and `gsm8k`, and a program with three tests for `code`. Isolation is what a call of a function that returns at once
takes, one at a time. A deadline of half a second is put on a function that hangs, with others waiting behind it: measured
is the time from the call to its verdict, less the deadline, and the same for the process that takes its place. A sandbox's
start is the time of `code` on a program of one line with one test, whose import of the reward is over.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from async_vs_sync import machine
from rich.console import Console
from rich.table import Table

from areal.broker.errors import RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool

RESULTS = Path(__file__).parent / "results" / "rewards.json"
WORKERS, UNDER_WAY = 2, 64
DEADLINE_S = 0.5

STEPS = (
    "First she has 16 eggs a day, eats 3 and bakes with 4, which leaves 16 - 3 - 4 = 9. At 2 dollars each that is 18. "
    * 3
)
MATH = (f"{STEPS}So the answer is \\boxed{{\\frac{{36}}{{2}}}}.", {"answer": "18"})
GSM8K = (f"{STEPS}\n#### 18", {"answer": "Janet sells 9 eggs.\n#### 18"})
PROGRAM = "def add(a, b):\n    return a + b\n"
CODE = (PROGRAM, {"test_list": [f"assert add({a}, 2) == {a + 2}" for a in (1, 2, 3)]})
ONE_LINE = ("x = 1", {"tests": {"inputs": [""], "outputs": [""]}})

OWN = """
import time
def trivial(completion): return 1.0
def hangs(completion):
    if completion == "hang": time.sleep(600)
    return 1.0
"""

Case = tuple[str, dict[str, Any]]


def with_pool(use: Callable[[RewardPool], Awaitable[Any]], name: str, **settings: Any) -> Any:
    given = {"functions": [{"name": name}], "workers": WORKERS, "retries": 0, "timeout_s": 30.0, **settings}

    async def run() -> Any:
        pool = RewardPool(RewardsConfig.model_validate(given))
        await pool.start()
        try:
            return await use(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


async def throughput(pool: RewardPool, case: Case, for_s: float) -> float:
    """Calls a second, with many under way."""
    text, row = case
    await pool.score("p", text, row)
    done, until = 0, time.perf_counter() + for_s

    async def ask() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await pool.score("p", text, row)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(UNDER_WAY)))
    return done / (time.perf_counter() - began)


async def one_by_one(pool: RewardPool, case: Case, calls: int) -> list[float]:
    """Milliseconds of each call."""
    text, row = case
    for _ in range(5):
        await pool.score("p", text, row)
    return [await _timed(pool.score("p", text, row)) for _ in range(calls)]


async def verdicts(pool: RewardPool, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds beyond the deadline until a hang is told of, and until the call behind it is scored."""
    late, behind = [], []
    for _ in range(rounds):
        hang = asyncio.ensure_future(_timed(_failing(pool.score("p", "hang", {}))))
        await asyncio.sleep(0)
        after = asyncio.ensure_future(_timed(pool.score("p", "a", {})))
        late.append(await hang - 1000 * DEADLINE_S)
        behind.append(await after - 1000 * DEADLINE_S)
    return late, behind


async def _failing(call: Awaitable[Any]) -> None:
    try:
        await call
    except RewardError:
        return
    raise AssertionError("what hangs was scored")


async def _timed(call: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await call
    return 1000 * (time.perf_counter() - began)


def measure(rounds: int, for_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.py"
        own.write_text(OWN)
        trivial = with_pool(lambda pool: one_by_one(pool, ("a", {}), 40 * rounds), f"{own}:trivial")
        late, behind = with_pool(lambda pool: verdicts(pool, rounds), f"{own}:hangs", workers=1, timeout_s=DEADLINE_S)
    started = with_pool(lambda pool: one_by_one(pool, ONE_LINE, 4 * rounds), "code", workers=1)
    rates = {
        name: with_pool(lambda pool, case=case: throughput(pool, case, for_s), name)  # type: ignore[misc]
        for name, case in (("math", MATH), ("gsm8k", GSM8K), ("code", CODE))
    }
    return {
        "calls_per_s": rates,
        "isolation_ms": spread(trivial),
        "after_deadline_ms": spread(late),
        "next_after_deadline_ms": spread(behind),
        "sandbox_ms": spread(started),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": median(values),
        "p99": quantiles(values, n=100, method="inclusive")[98],
        "max": max(values),
        "count": len(values),
    }


def show(found: dict[str, Any]) -> None:
    table = Table("", "p50", "p99", "max", "goal")
    goals = {"isolation_ms": "p50 2", "after_deadline_ms": "p99 300", "sandbox_ms": "p50 60"}
    for name, values in found.items():
        if name != "calls_per_s":
            table.add_row(name, *(f"{values[key]:.2f}" for key in ("p50", "p99", "max")), goals.get(name, ""))
    Console().print(table)
    for name, rate in found["calls_per_s"].items():
        print(f"{name}: {rate:,.0f} calls/s by {WORKERS} processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--for-s", type=float, default=5.0)
    options = parser.parse_args()
    about = machine()
    found = measure(options.rounds, options.for_s)
    show(found)
    command = " ".join(["python", "benchmarks/rewards.py", *sys.argv[1:]])
    RESULTS.write_text(json.dumps({"command": command, "machine": about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
