import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from areal.broker.errors import ConfigError, EngineDied
from areal.broker.trajectory import Prompt
from areal.rewards.grading import Answer, Grading
from areal.rewards.reward import Score
from areal.rollout.config import RolloutConfig
from areal.rollout.engine import Completion, Engine, Request
from areal.rollout.workflow import SingleTurn, Tools, load_workflow, prompt_of, render, trajectory_of


class Letters:
    """A tokenizer of letters; with a template it puts the role's first letter before each message."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return ([0] if add_special_tokens else []) + [ord(letter) for letter in text]

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join(f"{m['role'][0]}{m['content']}" for m in messages) + "a"


class Lengths:
    def sees_group(self, row: dict[str, Any]) -> bool:
        return True

    def grading(self, prompt: str, row: dict[str, Any], size: int) -> Grading:
        return Grading(self, prompt, row, size)

    async def of_one(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        assert (prompt, row["max_tokens"]) == ("ab", row["limit"]) and row["finish_reason"] == "stop"
        return Score(float(len(completion)), {"length": float(row["num_tokens"])})

    async def of_all(self, prompt: str, answers: list[Answer], row: dict[str, Any]) -> list[Score]:
        longest = max(known["num_tokens"] for _, known in answers)
        return [Score(0.5, {"longest": float(longest)}) for _ in answers]


class Speller:
    """An engine that answers each request with one letter more than the last; request `fails` dies."""

    def __init__(self, fails: int = -1) -> None:
        self.requests: list[Request] = []
        self.ended = 0
        self._fails = fails

    async def generate(self, request: Request) -> Completion:
        self.requests.append(request)
        number = len(self.requests)
        if number == self._fails:
            raise EngineDied("dead")
        try:
            await asyncio.sleep(0.01 if self._fails < 0 else 10)
        finally:
            self.ended += 1
        tokens = np.full(number, 7, np.int32)
        return Completion(tokens, np.full(number, -1, np.float32), np.full(number, 2, np.int32), "x" * number, "stop")

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def update_weights(self, version: int, path: Path) -> float:
        return 0.0


def tools(**rollout: Any) -> Tools:
    return Tools(Letters(), Lengths(), RolloutConfig(**rollout))


def test_a_row_is_rendered_with_the_template_or_without() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    as_text = "".join(map(chr, render({"messages": messages}, Letters("yes"))))
    assert as_text == "sSuUa"
    assert render({"prompt": "U"}, Letters("yes")) == tuple(map(ord, "uUa"))
    assert render({"messages": messages}, Letters()) == (0, *map(ord, "S\nU"))
    assert render({"prompt": "U"}, Letters()) == (0, ord("U"))


def test_what_a_reward_sees_as_the_prompt() -> None:
    assert prompt_of({"prompt": "p", "messages": [{"role": "user", "content": "m"}]}) == "p"
    assert prompt_of({"messages": [{"role": "user", "content": "m"}]}) == "m"


def test_a_trajectory_is_prompt_then_answer() -> None:
    answer = Completion(
        np.array([8, 9], np.int32), np.array([-1, -2], np.float32), np.array([4, 5], np.int32), "hi", "length"
    )
    made = trajectory_of((1, 2, 3), answer, 0.5, {"a": 0.5})
    assert made.tokens.tolist() == [1, 2, 3, 8, 9]
    assert made.versions.tolist() == [-1, -1, -1, 4, 5]
    assert made.behaviour_logprobs.tolist() == [0, 0, 0, -1, -2]
    assert (made.reward, made.reward_parts, made.finish_reason) == (0.5, {"a": 0.5}, "length")


def test_a_single_turn_samples_and_scores_the_group() -> None:
    engine = Speller()
    workflow = SingleTurn(tools(sampling={"max_tokens": 5, "temperature": 0.5, "stop": ["."]}))
    made = asyncio.run(workflow.run(Prompt(0, 0, 3, {"prompt": "ab", "limit": 5}), engine))
    assert engine.requests == [Request((0, 97, 98), 5, 0.5, (".",))] * 3
    assert [(t.reward, t.reward_parts) for t in made] == [
        (length + 0.5, {"length": length, "longest": 3.0}) for length in (1.0, 2.0, 3.0)
    ]


def test_when_one_answer_fails_the_others_are_not_left_running() -> None:
    engine = Speller(fails=3)

    async def scene() -> None:
        with pytest.raises(EngineDied):
            await SingleTurn(tools()).run(Prompt(0, 0, 4, {"prompt": "ab", "limit": 256}), engine)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())
    assert engine.ended >= 2


def test_a_workflow_of_a_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from areal.rollout.engine import Request\n"
        "from areal.rollout.workflow import trajectory_of\n"
        "class Twice:\n"
        "    def __init__(self, tools): self.tools = tools\n"
        "    async def run(self, prompt, engine):\n"
        "        answers = [await engine.generate(Request((1,), 4, 1.0)) for _ in range(2)]\n"
        "        return [trajectory_of((1,), a, float(len(a.text)), {}) for a in answers]\n"
    )
    workflow = load_workflow(RolloutConfig(workflow=f"{tmp_path / 'mine.py'}:Twice"), tools())
    engine: Engine = Speller()
    made = asyncio.run(workflow.run(Prompt(0, 0, 2, {}), engine))
    assert [trajectory.reward for trajectory in made] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "says"),
    [("singel_turn", "neither single_turn nor"), ("./absent.py:Mine", "there is no file"), ("json:Absent", "Absent")],
)
def test_a_workflow_that_is_none(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_workflow(RolloutConfig(workflow=name), tools())
