"""The answers of one group, scored as they come: at once by what looks at one answer, together by what looks at all.

score(a) ──▶ of one ─────────────┐
score(b) ──▶ of one ─────────────┼──▶ of all, once the last is there ──▶ each its own sum
score(c) ──▶ of one ─────────────┘
"""

import asyncio
from typing import Any, Protocol

from ..broker.errors import RewardError
from .reward import Score

Answer = tuple[str, dict[str, Any]]
"""A completion, and what is known of it: num_tokens, max_tokens, finish_reason."""


class Graders(Protocol):
    """The functions behind a grading."""

    def sees_group(self, row: dict[str, Any]) -> bool:
        """Whether some look at all answers to such a row."""

    async def of_one(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """What those say that look at one answer."""

    async def of_all(self, prompt: str, answers: list[Answer], row: dict[str, Any]) -> list[Score]:
        """What those say of each answer that look at all."""


class Grading:
    """One group of `size` answers to a prompt. Where functions look at the whole group, score() waits for its last answer."""

    def __init__(self, graders: Graders, prompt: str, row: dict[str, Any], size: int) -> None:
        self._graders = graders
        self._prompt, self._row = prompt, row
        self._size = size
        self._answers: list[Answer] = []
        self._judged: asyncio.Future[list[Score]] | None = None

    async def score(self, completion: str, **known: Any) -> Score:
        """The reward of an answer, which is known to be such; raises RewardError if it cannot be had.

        Where functions look at the whole group, the others then have none either.
        """
        assert len(self._answers) < self._size, f"a group of {self._size} has one answer more"
        try:
            score = await self._graders.of_one(self._prompt, completion, {**self._row, **known})
        except BaseException as error:
            self._give_up(f"another answer of the group has no score: {_reason(error)}")
            raise
        if not self._graders.sees_group(self._row):
            return score
        place = len(self._answers)
        self._answers.append((completion, known))
        if len(self._answers) == self._size:
            await self._judge()
        return score + (await asyncio.shield(self._whole()))[place]

    async def _judge(self) -> None:
        """Have all answers scored, for all who wait."""
        try:
            scores = await self._graders.of_all(self._prompt, self._answers, self._row)
        except BaseException as error:
            self._give_up(_reason(error))
            raise
        if not self._whole().done():
            self._whole().set_result(scores)

    def _whole(self) -> "asyncio.Future[list[Score]]":
        """The scores of all, once they are there."""
        self._judged = self._judged or asyncio.get_running_loop().create_future()
        return self._judged

    def _give_up(self, why: str) -> None:
        whole = self._whole()
        if not whole.done():
            whole.set_exception(RewardError(why))
            whole.exception()  # nobody may wait for it


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
