import asyncio
from typing import Any

import pytest

from areal.broker.errors import RewardError
from areal.rewards.grading import Answer, Grading
from areal.rewards.reward import Score


class Graders:
    """One says the length of an answer, another its share of all letters of the group."""

    def __init__(self, *, sees_groups: bool = True, fails: bool = False) -> None:
        self._sees_groups = sees_groups
        self.of_all_calls = 0
        self._fails = fails

    def sees_group(self, row: dict[str, Any]) -> bool:
        return self._sees_groups

    async def of_one(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        await asyncio.sleep(0.001 * len(completion))
        if completion == "bad":
            raise RewardError("no score for that")
        return Score(float(len(completion)), {"length": float(row["num_tokens"])})

    async def of_all(self, prompt: str, answers: list[Answer], row: dict[str, Any]) -> list[Score]:
        self.of_all_calls += 1
        await asyncio.sleep(0)
        if self._fails:
            raise RewardError("nobody knows")
        letters = sum(len(text) for text, _ in answers)
        return [Score(len(text) / letters, {"share": len(text) / letters}) for text, _ in answers]


def graded(graders: Graders, *texts: str, size: int | None = None, waits_s: float = 10.0) -> list[Any]:
    async def work() -> list[Any]:
        grading = Grading(graders, "prompt", {"answer": 1}, size or len(texts))
        tasks = [asyncio.create_task(grading.score(text, num_tokens=7)) for text in texts]
        await asyncio.wait(tasks, timeout=waits_s)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(work())


def test_each_answer_gets_its_own_share_whichever_came_first() -> None:
    graders = Graders()
    scores = graded(graders, "aaaaaa", "b", "cc", "c")
    assert [score.total for score in scores] == pytest.approx([6.6, 1.1, 2.2, 1.1])
    assert scores[2].parts == {"length": 7.0, "share": 0.2}
    assert graders.of_all_calls == 1


def test_where_nobody_looks_at_groups_no_answer_waits_for_another() -> None:
    graders = Graders(sees_groups=False)
    assert [score.total for score in graded(graders, "aaa", "b", size=5)] == [3.0, 1.0]
    assert graders.of_all_calls == 0


def test_a_group_that_is_never_whole_is_not_judged() -> None:
    graders = Graders()
    scores = graded(graders, "aaa", "b", size=3, waits_s=0.1)
    assert [type(score) for score in scores] == [asyncio.CancelledError] * 2
    assert graders.of_all_calls == 0


def test_where_one_has_no_score_the_others_do_not_wait_for_ever() -> None:
    scores = graded(Graders(), "aaa", "bad", "b", waits_s=2.0)
    assert str(scores[1]) == "no score for that"
    assert [str(scores[place]) for place in (0, 2)] == [
        "another answer of the group has no score: no score for that"
    ] * 2


def test_whoever_is_cancelled_cancels_nobody_else() -> None:
    async def work() -> list[Any]:
        grading = Grading(Graders(), "prompt", {}, 2)
        first, last = (asyncio.create_task(grading.score(text, num_tokens=1)) for text in ("a", "bbbbbbbb"))
        await asyncio.sleep(0.003)
        last.cancel()
        return await asyncio.gather(first, last, return_exceptions=True)

    first, last = asyncio.run(work())
    assert isinstance(last, asyncio.CancelledError)
    assert str(first) == "another answer of the group has no score: CancelledError"


def test_a_failure_is_every_answers() -> None:
    assert [str(error) for error in graded(Graders(fails=True), "aaa", "b")] == ["nobody knows"] * 2
