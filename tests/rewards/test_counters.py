"""What rewards count, from a function in its process to the pool."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from areal.rewards.config import RewardsConfig
from areal.rewards.counters import MAX_NAMES, add, count, drain
from areal.rewards.pool import RewardPool
from areal.rewards.reward import Score

FUNCTIONS = """
import os, sys, time
from areal.rewards import counters
from areal.rewards.counters import count

def counts(completion):
    count("calls")
    count("characters", len(completion))
    if completion == "raise": raise KeyError("no")
    if completion == "hang": time.sleep(600)
    return 1.0

def wild(completion):
    for name, amount in ((None, 1), ([], 1), ("", 1), ("a\\nb", 1), ("a" * 65, 1), ("x", float("nan")), ("x", 10**400),
                         ("x", -1), ("x", "1"), ("x", None), ("x", 2)):
        count(name, amount)
    return 1.0

def many(completion):
    for number in range(1000): count(f"counter_{number}")
    return 1.0

def hostile(completion):
    forged = {"list": [1, 2], "names": {7: 1, "\\ud83d": 1, "x": float("inf"), "y": 3},
              "many": {str(number): 1 for number in range(65)}, "text": "x"}[completion]
    counters.drain = lambda: forged
    return 1.0
"""


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    drain()


def scored(file: Path, function: str, *answers: str, **settings: Any) -> tuple[list[Any], dict[str, float]]:
    """The scores, or what was raised, and what the pool has counted."""
    pool = RewardPool(RewardsConfig.model_validate({"functions": [{"name": f"{file}:{function}"}], **settings}))

    async def work() -> list[Any]:
        await pool.start()
        try:
            return await asyncio.gather(*(pool.score("p", text, {}) for text in answers), return_exceptions=True)
        finally:
            await pool.stop()

    return asyncio.run(work()), pool.counters


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


def test_counts_are_drained_once() -> None:
    count("a")
    count("a", 0.5)
    count("b", 2)
    assert drain() == {"a": 1.5, "b": 2.0} and drain() == {}


def test_the_pool_adds_up_what_its_processes_count(file: Path) -> None:
    scores, counted = scored(file, "counts", *["word"] * 9, workers=2)
    assert [score.total for score in scores] == [1.0] * 9
    assert counted == {"calls": 9.0, "characters": 36.0}


def test_a_call_that_failed_has_counted_and_one_that_was_killed_has_not(file: Path) -> None:
    scores, counted = scored(file, "counts", "ab", "raise", "hang", "abc", retries=1, timeout_s=0.5)
    assert [isinstance(score, Score) for score in scores] == [True, False, False, True]
    assert counted == {"calls": 4.0, "characters": 2 + 2 * 5 + 3}


def test_what_is_no_count_is_left_out_and_the_score_stays(file: Path) -> None:
    scores, counted = scored(file, "wild", "a")
    assert scores[0].total == 1.0 and counted == {"x": 2.0}


def test_names_are_bounded(file: Path) -> None:
    scores, counted = scored(file, "many", "a", "b")
    assert [score.total for score in scores] == [1.0, 1.0]
    assert counted == {f"counter_{number}": 2.0 for number in range(MAX_NAMES)}


@pytest.mark.parametrize(("forged", "kept"), [("list", {}), ("names", {"y": 3.0}), ("many", {}), ("text", {})])
def test_what_a_process_forges_is_looked_at_again(file: Path, forged: str, kept: dict[str, float]) -> None:
    scores, counted = scored(file, "hostile", forged)
    assert scores[0].total == 1.0 and counted == kept


def test_a_total_stays_finite() -> None:
    totals = {"x": 1e308}
    add(totals, {"x": 1e308, "y": 1})
    assert totals == {"x": 1e308, "y": 1.0}
