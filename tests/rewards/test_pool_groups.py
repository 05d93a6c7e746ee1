"""The pool, where a function looks at all answers of a group."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool
from areal.rewards.reward import Score

FUNCTIONS = """
from collections import Counter

def majority(completions, prompts, answer, scale=1.0):
    assert len(completions) == len(prompts) == len(answer) and set(prompts) == {"p"}
    counts = Counter(completions)
    return [scale * counts[each] / len(completions) for each in completions]

def shortest(completions, num_tokens, finish_reason):
    return [{"short": float(n == min(num_tokens)), "cut": float(why == "length")} for n, why in zip(num_tokens, finish_reason)]

def length(completion, num_tokens=None): return num_tokens or len(completion)

def few(completions): return [1.0]
"""


def graded(file: Path, *functions: Any, answers: str = "aab", **settings: Any) -> list[Score]:
    described = [
        {"name": f"{file}:{f}"} if isinstance(f, str) else {**f, "name": f"{file}:{f['name']}"} for f in functions
    ]
    pool = RewardPool(RewardsConfig.model_validate({"functions": described, "retries": 0, **settings}))

    async def work() -> list[Score]:
        await pool.start()
        try:
            grading = pool.grading("p", {"answer": "a", "source": "words"}, len(answers))
            known = [{"num_tokens": 3 + place, "finish_reason": "length"} for place in range(len(answers))]
            return await asyncio.gather(
                *(grading.score(text, **facts) for text, facts in zip(answers, known, strict=True))
            )
        finally:
            await pool.stop()

    return asyncio.run(work())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


def test_a_function_of_a_group_is_called_once_with_lists(file: Path) -> None:
    scores = graded(file, {"name": "majority", "kwargs": {"scale": 3.0}}, workers=2)
    assert [score.total for score in scores] == [2.0, 2.0, 1.0]


def test_it_is_summed_with_those_of_one_answer_whose_tokens_are_known(file: Path) -> None:
    scores = graded(file, "majority", {"name": "length", "weight": 0.1}, "shortest")
    assert [score.total for score in scores] == pytest.approx([2 / 3 + 0.3 + 2, 2 / 3 + 0.4 + 1, 1 / 3 + 0.5 + 1])
    assert scores[0].parts == {"majority": 2 / 3, "length": 3.0, "shortest.short": 1.0, "shortest.cut": 1.0}


def test_a_wrong_count_is_a_failure_of_the_whole_group(file: Path) -> None:
    with pytest.raises(RewardError, match="returned 1 rewards for 3 answers: one for each is wanted"):
        graded(file, "length", "few")


def test_a_workflow_that_scores_one_answer_is_told_how_to_score_a_group(file: Path) -> None:
    pool = RewardPool(RewardsConfig.model_validate({"functions": [{"name": f"{file}:majority"}]}))

    async def work() -> None:
        await pool.start()
        try:
            await pool.score("p", "a", {})
        finally:
            await pool.stop()

    with pytest.raises(
        RewardError, match=r"majority' looks at all answers of a group.*scorer\.grading\(prompt, row, size\)"
    ):
        asyncio.run(work())


def test_a_function_is_for_the_rows_of_its_sources(file: Path) -> None:
    """Rows are of the part `words` here."""
    only = [{"name": "length", "sources": ["sums"]}, {"name": "majority", "sources": ["words", "sums"]}]
    assert [score.parts for score in graded(file, *only)] == [{"majority": 2 / 3}] * 2 + [{"majority": 1 / 3}]
    other = [{"name": "majority", "sources": ["sums"]}, {"name": "length", "sources": ["words"]}]
    assert [score.parts for score in graded(file, *other)] == [{"length": 3.0}, {"length": 4.0}, {"length": 5.0}]
    none = [{"name": "length", "sources": ["sums"]}]
    assert [score.total for score in graded(file, *none)] == [0.0, 0.0, 0.0]
