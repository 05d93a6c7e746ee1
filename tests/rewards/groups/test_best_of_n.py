import asyncio
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.groups.best_of_n import best_of_n
from areal.rewards.reward import prepare

JUDGES = """
def right(completion, answer): return float(answer in completion)
async def brief(completion, num_tokens): return {"tokens": -num_tokens, "letters": -0.01 * len(completion)}
def rank(completions, prompts, answer):
    assert prompts == ["p"] * len(completions)
    return [completions.index(each) for each in completions]
def broken(completion): return float("nan")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "judges.py"
    path.write_text(JUDGES)
    return path


def best(of: str, completions: list[str], **kwargs: Any) -> list[float]:
    reward = prepare("best_of_n", best_of_n, {"of": of, **kwargs})
    answers = [(text, {"num_tokens": 10 - len(text), "finish_reason": "stop"}) for text in completions]
    found: list[float] = asyncio.run(reward.of_texts("p", answers, {"answer": "x", "prompt": "p"}))
    return found


def test_the_best_by_a_reward_of_one_answer(file: Path) -> None:
    assert best(f"{file}:right", ["ax", "b", "x"]) == [1.0, 0.0, 1.0]
    assert best(f"{file}:right", ["x", "ax"]) == [0.0, 0.0]
    assert best(f"{file}:brief", ["a", "aaa", "aa"]) == [0.0, 1.0, 0.0]


def test_the_best_by_a_reward_of_a_group(file: Path) -> None:
    assert best(f"{file}:rank", ["a", "b", "c"]) == [0.0, 0.0, 1.0]


def test_a_reward_that_fails_is_a_failure(file: Path) -> None:
    with pytest.raises(RewardError, match=r"broken returned nan \(float\), not a finite number"):
        best(f"{file}:broken", ["a", "b"])


def test_what_is_no_reward_of_texts_is_refused_as_the_run_starts() -> None:
    with pytest.raises(ConfigError, match=r"'jpeg_compressibility' \(kwargs.of\) rewards images"):
        prepare("best_of_n", best_of_n, {"of": "jpeg_compressibility"}).begin()
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        prepare("best_of_n", best_of_n, {"of": "srot"}).begin()
    with pytest.raises(ConfigError, match="wants 'of'"):
        prepare("best_of_n", best_of_n, {}).begin()
