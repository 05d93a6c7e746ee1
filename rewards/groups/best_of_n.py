"""The best answer of a group, by another reward: what counts is then its order, not its scale."""

import inspect
from collections.abc import Sequence
from typing import Any

from ...broker.errors import ConfigError
from ..loading import load_reward
from ..reward import FACTS, OF_TEXTS, TEXTS, Reward, all_checked, begins_with, prepare


def _begin(of: str, kwargs: dict[str, Any] | None) -> None:
    _judge(of, kwargs).begin()


@begins_with(_begin)
async def best_of_n(
    completions: Sequence[str], prompts: Sequence[str], *, of: str, kwargs: dict[str, Any] | None = None, **rows: Any
) -> list[float]:
    """1.0 for each completion that the reward `of` (with its `kwargs`) puts first in its group, and 0.0 for the others.

    For a verifier, a judge or a reward model whose scores mean little by themselves. Those that share the first place all
    earn 1.0; where all are alike, nobody earns anything.
    """
    judge = _judge(of, kwargs)
    row = {name: values[0] for name, values in rows.items() if name not in FACTS}
    known = [{name: rows[name][place] for name in FACTS if name in rows} for place in range(len(completions))]
    answers = list(zip(completions, known, strict=True))
    if judge.takes == TEXTS:
        found = await _awaited(judge.of_texts(prompts[0], answers, row))
    else:
        found = [await _awaited(judge(prompts[0], text, row | facts)) for text, facts in answers]
    values = all_checked(of, found, len(answers))
    scores = [sum(value.values()) if isinstance(value, dict) else value for value in values]
    best = max(scores)
    return [float(score == best > min(scores)) for score in scores]


def _judge(of: str, kwargs: dict[str, Any] | None) -> Reward:
    judge = prepare(of, load_reward(of), kwargs or {})
    if judge.takes not in OF_TEXTS:
        raise ConfigError(f"best_of_n compares texts, and {of!r} (kwargs.of) rewards images")
    return judge


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
