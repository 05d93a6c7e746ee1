"""What a reward function may do to its process, and what becomes of the calls beside it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from areal.broker.errors import RewardError
from areal.rewards.footprint import MARK, kill_marked, memory_bytes
from areal.rewards.pool import RewardPool

from .test_pool import gone, score_all, totals, with_pool

FUNCTIONS = """
import ctypes, os, subprocess, sys, time
from pathlib import Path

hoard = []

def mixed(completion, marks):
    if completion == "leak":
        while True: hoard.append(bytearray(b"x" * 8_000_000))
    if completion == "leaking child":
        subprocess.run([sys.executable, "-c", "h = []\\nwhile True: h.append(bytearray(b'x' * 8_000_000))"])
    if completion == "slow leak":
        hoard.append(bytearray(b"x" * 40_000_000))
        return float(os.getpid())
    if completion == "segfault": ctypes.string_at(0)
    if completion == "close":
        os.closerange(0, 256)
        time.sleep(600)
    if completion == "hang in C":
        ctypes.PyDLL(None).sleep(600)  # the interpreter's lock is held all the while
    if completion == "flood":
        for _ in range(64): os.write(2, b"z" * 1_000_000)
    if completion == "detach":
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(marks, "detached").write_text(str(child.pid))
        time.sleep(600)
    if completion == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            Path(marks, "daemon").write_text(str(os.getpid()))
            time.sleep(600)
        while not Path(marks, "daemon").exists(): time.sleep(0.01)
        os._exit(4)
    return float(len(completion))
"""


@pytest.fixture
def mixed(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return {"name": f"{tmp_path}/functions.py:mixed", "kwargs": {"marks": str(tmp_path)}}


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("leak", r"took more than 256 MiB of memory \(rewards.memory_mib\)"),
        ("leaking child", "took more than 256 MiB of memory"),
        ("segfault", "the process died with signal 11"),
        ("close", "the process closed its pipe"),
        ("hang in C", "timed out after 3 s"),
    ],
)
def test_it_is_contained_and_the_calls_beside_it_are_scored_rightly(
    mixed: dict[str, object], bad: str, cause: str
) -> None:
    began = time.monotonic()
    found = with_pool(
        lambda pool: score_all(pool, "a", "ab", bad, "abc", "abcd"), mixed, workers=2, timeout_s=3.0, memory_mib=256
    )
    assert totals(found) == [1.0, 2.0, None, 3.0, 4.0]
    assert time.monotonic() - began < 30
    with pytest.raises(RewardError, match=cause):
        raise found[2]


def test_a_leak_over_many_calls_costs_a_process_and_no_call(mixed: dict[str, object]) -> None:
    found = with_pool(lambda pool: score_all(pool, *["slow leak"] * 60), mixed, retries=3, memory_mib=400)
    processes = {score for score in totals(found)}
    assert None not in processes and len(processes) > 1


def test_what_floods_the_log_is_scored_and_its_output_cut(
    mixed: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    assert totals(with_pool(lambda pool: score_all(pool, "flood", "abc"), mixed)) == [5.0, 3.0]
    said = capfd.readouterr().err
    assert said.count("z") < 300_000 and "bytes more that a reward printed are left out" in said


@pytest.mark.parametrize(("bad", "mark"), [("detach", "detached"), ("daemon", "daemon")])
def test_what_it_detached_is_killed_with_it(mixed: dict[str, object], tmp_path: Path, bad: str, mark: str) -> None:
    found = with_pool(lambda pool: score_all(pool, bad, "abc"), mixed, timeout_s=2.0)
    assert totals(found) == [None, 3.0]
    assert gone(int((tmp_path / mark).read_text()))


def test_memory_is_that_of_a_process_and_its_descendants() -> None:
    hoard = "import sys, time; h = b'x' * 100_000_000; print(flush=True); time.sleep(60)"
    nest = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hoard!r}])"
    with subprocess.Popen([sys.executable, "-c", nest], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        assert 100e6 < memory_bytes(process.pid) < 200e6
        for child in psutil.Process(process.pid).children():
            child.kill()
    assert memory_bytes(process.pid) == 0


def test_only_what_bears_the_mark_is_killed() -> None:
    marked, other = (
        subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark}, start_new_session=True)
        for mark in ("mine", "yours")
    )
    try:
        assert asyncio.run(asyncio.to_thread(kill_marked, "mine")) == 1
        assert marked.wait(10) == -signal.SIGKILL and other.poll() is None
    finally:
        other.kill()
        other.wait()


TOGETHER = """
import asyncio, os, time

async def waits(completion):
    with open(os.path.join(os.path.dirname(__file__), "pids"), "a") as pids: print(os.getpid(), file=pids)
    if completion == "blocks": time.sleep(600)
    if completion == "never": await asyncio.sleep(600)
    if completion == "crash": os._exit(5)
    if completion == "exit": raise SystemExit("enough")
    await asyncio.sleep(0.3)
    return float(len(completion))

async def of_images(image):
    await asyncio.sleep(0.3)
    return 1.0
"""


@pytest.fixture
def together(tmp_path: Path) -> str:
    (tmp_path / "together.py").write_text(TOGETHER)
    return f"{tmp_path}/together.py"


def test_calls_of_an_async_function_are_under_way_together(together: str) -> None:
    async def use(pool: RewardPool) -> tuple[list[float | None], float]:
        began = time.monotonic()
        found = totals(await score_all(pool, *("x" * n for n in range(30))))
        return found, time.monotonic() - began

    found, took_s = with_pool(use, f"{together}:waits")
    assert found == list(range(30))
    assert took_s < 30 * 0.3 / 3


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("blocks", "failed 2 times, lastly: timed out after 1.5 s"),
        ("never", "failed 2 times, lastly: timed out after 1.5 s"),
        ("crash", "failed 2 times, lastly: the process exited with code 5"),
        ("exit", "failed 2 times, lastly: Traceback"),
    ],
)
def test_of_calls_under_way_together_the_guilty_one_alone_is_charged(together: str, bad: str, cause: str) -> None:
    found = with_pool(
        lambda pool: score_all(pool, "a", "ab", bad, "abc", "abcd"), f"{together}:waits", timeout_s=1.5, retries=1
    )
    assert totals(found) == [1.0, 2.0, None, 3.0, 4.0]
    with pytest.raises(RewardError, match=cause):
        raise found[2]


def test_no_call_waits_behind_a_hang_while_a_process_is_free(mixed: dict[str, object]) -> None:
    async def use(pool: RewardPool) -> float:
        hang = asyncio.ensure_future(score_all(pool, "hang in C"))
        await asyncio.sleep(0)
        began = time.monotonic()
        assert totals(await score_all(pool, *["abc"] * 20)) == [3.0] * 20
        took_s = time.monotonic() - began
        assert totals(await hang) == [None]
        return took_s

    assert with_pool(use, mixed, workers=2, timeout_s=6.0) < 5.0


def test_a_call_that_waits_for_a_suspect_to_end_does_not_spin(together: str) -> None:
    """It comes as the suspect is called alone: time of the rollout worker's own is what it must not take."""

    async def use(pool: RewardPool) -> float:
        suspects = asyncio.ensure_future(score_all(pool, "abc", "blocks"))
        await asyncio.sleep(6.0)  # 4 s until the process is given up, less than 1 for the other, 4 for the suspect
        began = time.process_time()
        assert totals(await score_all(pool, "x")) == [1.0]
        spent_s = time.process_time() - began
        assert totals(await suspects) == [3.0, None]
        return spent_s

    assert with_pool(use, f"{together}:waits", timeout_s=3.0) < 1.0


def test_an_async_call_that_is_late_costs_no_other_call_anything(together: str, tmp_path: Path) -> None:
    async def use(pool: RewardPool) -> tuple[list[float | None], float]:
        began = time.monotonic()
        found = totals(await score_all(pool, *("x" * n for n in range(1, 9)), "never", *("y" * n for n in range(1, 9))))
        return found, time.monotonic() - began

    found, took_s = with_pool(use, f"{together}:waits", timeout_s=3.0)
    assert found == [*range(1, 9), None, *range(1, 9)]
    assert took_s < 6.0
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 17 and len(set(pids)) == 1  # each was called once, and no process was killed
