import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from areal.broker.errors import ArealError, ConfigError, RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool
from areal.rewards.reward import Score
from areal.rewards.worker import Worker

FUNCTIONS = """
import asyncio, os, sys, time
from pathlib import Path

def length(completion): return len(completion)

def pid(completion): return os.getpid()

def style(completion): return {"short": -len(completion), "calm": 1}

async def later(completion, loops=set()):
    loops.add(id(asyncio.get_running_loop()))
    await asyncio.sleep(0.01)
    return len(loops)

def by_text(completion, marks=None):
    if completion == "hang": time.sleep(600)
    if completion == "crash": os._exit(3)
    if completion == "kill": os.kill(os.getpid(), 9)
    if completion == "exit": sys.exit("enough")
    if completion == "raise": raise KeyError("this is the reason")
    if completion == "nan": return float("nan")
    if completion == "loud":
        print("x" * 3_000_000)
        os.write(1, b"y" * 100_000)
    if completion == "fork": os.fork()
    if completion == "read": return len(sys.stdin.read())
    if completion == "once":
        mark = Path(marks, "seen")
        if not mark.exists():
            mark.touch()
            time.sleep(600)
    return len(completion)

def starts_a_child(completion):
    import subprocess
    return subprocess.Popen(["sleep", "600"]).pid
"""


def reward_processes() -> list[psutil.Process]:
    """The children of this process that are not somebody else's, such as the tests' redis-server."""
    return [child for child in psutil.Process().children() if "areal.rewards" in command(child)]


def command(process: psutil.Process) -> str:
    """Its command line; nothing for one that has ended by now, whoever started it."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one, too
        return ""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return str(path)


def with_pool(use: Callable[[RewardPool], Awaitable[Any]], *functions: Any, **settings: Any) -> Any:
    """What `use` makes of a running pool; by_text's failures are told at once unless retries are given."""
    described = [{"name": f} if isinstance(f, str) else f for f in functions]
    pool = RewardPool(RewardsConfig(**{"functions": described, "timeout_s": 60.0, "retries": 0, **settings}))

    async def run() -> Any:
        await pool.start()
        try:
            return await use(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


def score_all(pool: RewardPool, *completions: str) -> Awaitable[list[Score | BaseException]]:
    calls = [pool.score("prompt", completion, {}) for completion in completions]
    return asyncio.gather(*calls, return_exceptions=True)


def totals(scores: list[Score | BaseException]) -> list[float | None]:
    return [score.total if isinstance(score, Score) else None for score in scores]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


def test_functions_are_summed_by_weight(file: str) -> None:
    functions = ["sort", {"name": f"{file}:style", "weight": 0.5}, {"name": f"{file}:length", "weight": 0.0}]
    score = with_pool(lambda pool: pool.score("s21=", "1#12", {"answer": "12"}), *functions)
    assert score == Score(1.0 + 0.5 * (-4 + 1), {"sort": 1.0, "style.short": -4.0, "style.calm": 1.0, "length": 4.0})


def test_the_example_runs() -> None:
    example = Path(__file__).parents[2] / "examples/custom_reward/brevity.py"
    score = with_pool(lambda pool: pool.score("p", "x" * 500, {"answer": "unused"}), f"{example}:brevity")
    assert score == Score(-0.5, {"brevity": -0.5})


def test_many_calls_over_two_processes_keep_their_order(file: str) -> None:
    completions = ["x" * n for n in range(200)]
    scores = with_pool(lambda pool: score_all(pool, *completions), f"{file}:length", f"{file}:pid", workers=2)
    assert [score.parts["length"] for score in scores] == list(range(200))
    pids = {score.parts["pid"] for score in scores}
    assert len(pids) == 2 and os.getpid() not in pids


def test_async_functions_share_one_loop(file: str) -> None:
    assert totals(with_pool(lambda pool: score_all(pool, "a", "b", "c"), f"{file}:later")) == [1.0, 1.0, 1.0]


def test_text_arrives_unharmed(file: str) -> None:
    texts = ["", "né 漢 🙂", "\ud83d", "\0#", "x" * 2_000_000]
    assert totals(with_pool(lambda pool: score_all(pool, *texts), f"{file}:length")) == [len(t) for t in texts]


def test_a_hang_is_killed_and_harms_no_call_in_its_batch(file: str) -> None:
    async def use(pool: RewardPool) -> None:
        before, hang, after, last = await score_all(pool, "a", "hang", "abc", "abcd")
        assert totals([before, after, last]) == [1.0, 3.0, 4.0]  # and with retries=0: they were not charged
        assert isinstance(hang, RewardError)
        assert str(hang) == f"reward '{file}:by_text' failed once, lastly: timed out after 1 s"
        assert totals(await score_all(pool, "later")) == [5.0]

    with_pool(use, f"{file}:by_text", timeout_s=1.0)


def test_a_call_that_failed_is_tried_again(file: str, tmp_path: Path) -> None:
    function = {"name": f"{file}:by_text", "kwargs": {"marks": str(tmp_path)}}
    scores = with_pool(lambda pool: score_all(pool, "a", "once", "abc"), function, timeout_s=1.0, retries=1)
    assert totals(scores) == [1.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("completion", "cause"),
    [
        ("crash", "failed 3 times, lastly: the process exited with code 3"),
        ("kill", "failed 3 times, lastly: the process died with signal 9"),
        ("exit", "failed 3 times, lastly: Traceback .*SystemExit: enough"),
        (
            "raise",
            r"failed 3 times, lastly: Traceback .*functions\.py.*raise KeyError.*KeyError: 'this is the reason'$",
        ),
        ("nan", r"lastly: .*:by_text returned nan \(float\), not a finite number"),
    ],
)
def test_a_failure_is_never_a_score(file: str, completion: str, cause: str) -> None:
    before, failed, after = with_pool(
        lambda pool: score_all(pool, "a", completion, "abc"), f"{file}:by_text", retries=2
    )
    assert totals([before, after]) == [1.0, 3.0]
    with pytest.raises(RewardError, match=f"(?s){cause}"):
        raise failed


def test_a_function_that_raises_keeps_its_process(file: str) -> None:
    async def use(pool: RewardPool) -> list[float]:
        first = await pool.score("p", "a", {"answer": "1"})
        with pytest.raises(RewardError, match="sort wants 'answer', which the row lacks; its columns: solution"):
            await pool.score("p", "a", {"solution": "1"})
        return [first.parts["pid"], (await pool.score("p", "a", {"answer": "1"})).parts["pid"]]

    pids = with_pool(use, f"{file}:pid", "sort", retries=1)
    assert pids[0] == pids[1]


def test_what_a_function_prints_or_reads_stays_off_the_pipes(file: str) -> None:
    assert totals(with_pool(lambda pool: score_all(pool, "loud", "read", "abc"), f"{file}:by_text")) == [4.0, 0.0, 3.0]


def test_an_answer_to_another_call_is_never_taken(file: str) -> None:
    scores = with_pool(lambda pool: score_all(pool, "a", "fork", "abcdef", "abc"), f"{file}:by_text", retries=2)
    assert totals(scores) == [1.0, 4.0, 6.0, 3.0]  # the twin answers each call a second time


def test_a_row_that_cannot_be_sent_is_refused(file: str) -> None:
    with pytest.raises(RewardError, match="cannot be sent"):
        with_pool(lambda pool: pool.score("p", "c", {"answer": object()}), f"{file}:length")


def test_an_error_at_import_is_told_by_start_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(): ...\nraise LookupError('no dictionary here')\n")
    with pytest.raises(RewardError, match=r"(?s)broken\.py\", line 2.*LookupError: no dictionary here"):
        with_pool(lambda pool: pool.score("p", "c", {}), f"{tmp_path}/broken.py:f", workers=2)
    assert reward_processes() == []


def test_a_process_that_ends_at_import_is_told_by_start(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os\nos._exit(5)\n")
    with pytest.raises(RewardError, match="did not start: the process exited with code 5"):
        with_pool(lambda pool: pool.score("p", "c", {}), f"{tmp_path}/broken.py:f")


def test_an_import_that_hangs_is_told_by_start(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    pool = RewardPool(RewardsConfig(functions=[{"name": f"{tmp_path}/slow.py:f"}], start_timeout_s=0.5))
    with pytest.raises(RewardError, match=r"did not start: timed out after 0\.5 s"):
        asyncio.run(pool.start())
    assert reward_processes() == []


def test_a_wrong_name_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        with_pool(lambda pool: pool.score("p", "c", {}), "srot")
    with pytest.raises(ConfigError, match="cannot be given the argument 'lenght'"):
        with_pool(lambda pool: pool.score("p", "c", {}), {"name": "sort", "kwargs": {"lenght": 1}})


def test_a_cancelled_score_leaves_the_pool_working(file: str) -> None:
    async def use(pool: RewardPool) -> list[float | None]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await score_all(pool, "hang", "abc", "abcd")
        return totals(await score_all(pool, "a", "ab"))

    assert with_pool(use, f"{file}:by_text", timeout_s=1.0) == [1.0, 2.0]


def test_a_process_that_died_idle_is_replaced_without_charge(file: str) -> None:
    async def use(pool: RewardPool) -> bool:
        first = int((await pool.score("p", "c", {})).total)
        os.kill(first, signal.SIGKILL)
        await until(lambda: gone(first))
        await asyncio.sleep(0.2)  # until the loop has heard of it, too
        return first != (await pool.score("p", "c", {})).total

    assert with_pool(use, f"{file}:pid")


def test_a_process_that_cannot_be_replaced_fails_its_calls(file: str) -> None:
    async def use(pool: RewardPool) -> None:
        Path(file).write_text("raise OSError('the disk is gone')\n")
        with pytest.raises(RewardError, match="exited with code 3"):
            await pool.score("p", "crash", {})
        with pytest.raises(RewardError, match=r"(?s)failed once, lastly: a reward cannot be loaded:.*the disk is gone"):
            await pool.score("p", "abc", {})
        Path(file).write_text(FUNCTIONS)
        assert (await pool.score("p", "abc", {})).total == 3.0

    with_pool(use, f"{file}:by_text")


def test_stop_ends_every_process_and_every_open_call(file: str) -> None:
    async def use(pool: RewardPool) -> int:
        grandchild = int((await pool.score("p", "c", {})).total)
        await pool.stop()
        await until(lambda: gone(grandchild))
        return grandchild

    with_pool(use, f"{file}:starts_a_child", workers=2)
    assert reward_processes() == []

    async def use_open(pool: RewardPool) -> list[Score | BaseException]:
        scores = asyncio.ensure_future(score_all(pool, "hang", "abc", "abcd"))
        await asyncio.sleep(0.2)
        await pool.stop()
        return await scores

    scores = with_pool(use_open, f"{file}:by_text")
    assert [str(score) for score in scores] == [f"reward '{file}:by_text': the reward pool was stopped"] * 3
    assert reward_processes() == []


def test_a_stop_that_is_cancelled_leaves_the_process_to_the_next_one() -> None:
    """As when two processes fail to start: the first one's error cancels the second one's stop."""

    async def use() -> None:
        worker = Worker([("sort", {})], 60.0)
        await worker.start()
        process = worker._process
        assert process is not None
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0)  # it has sent the signal, and waits
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await worker.stop()
        assert process.returncode == -signal.SIGKILL and not worker.alive

    asyncio.run(use())
    assert reward_processes() == []


def test_a_pool_that_does_not_run_says_so() -> None:
    pool = RewardPool(RewardsConfig(functions=[{"name": "sort"}]))
    with pytest.raises(ArealError, match="the reward pool is not running"):
        asyncio.run(pool.score("p", "c", {"answer": "1"}))
