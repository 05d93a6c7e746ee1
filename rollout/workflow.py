"""From a prompt to its trajectories: the episode that a user can replace."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..broker.errors import ConfigError
from ..broker.trajectory import NOT_AN_ACTION, Prompt, TokenTrajectory, Trajectory
from ..rewards.loading import load_object
from ..rewards.pool import Scorer
from .config import RolloutConfig
from .engine import Completion, Engine, Request


class Workflow(Protocol):
    """Written against the Engine protocol; one instance serves every prompt of a worker, concurrently."""

    async def run(self, prompt: Prompt, engine: Engine) -> Sequence[Trajectory]:
        """The group's trajectories, rewarded. An exception is a failure of the prompt, which is tried again."""


@dataclass(frozen=True)
class Tools:
    """What a workflow is made with: the tokenizer (Hugging Face), the rewards, and the rollout's configuration."""

    tokenizer: Any
    scorer: Scorer
    config: RolloutConfig


class SingleTurn:
    """One question, G answers, each scored as soon as it ends while the others are still generated."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, prompt: Prompt, engine: Engine) -> list[TokenTrajectory]:
        prompt_tokens = render(prompt.row, self._tools.tokenizer)
        episodes = [asyncio.create_task(self._episode(prompt, prompt_tokens, engine)) for _ in range(prompt.group_size)]
        try:
            return list(await asyncio.gather(*episodes))
        finally:
            for episode in episodes:
                episode.cancel()  # those left over when one failed

    async def _episode(self, prompt: Prompt, prompt_tokens: tuple[int, ...], engine: Engine) -> TokenTrajectory:
        sampling = self._tools.config.sampling
        request = Request(prompt_tokens, sampling.max_tokens, sampling.temperature, tuple(sampling.stop))
        completion = await engine.generate(request)
        score = await self._tools.scorer.score(prompt_of(prompt.row), completion.text, prompt.row)
        return trajectory_of(prompt_tokens, completion, score.total, score.parts)


def load_workflow(config: RolloutConfig, tools: Tools) -> Workflow:
    """The workflow that the configuration names."""
    if config.workflow == "single_turn":
        return SingleTurn(tools)
    if ":" not in config.workflow:
        raise ConfigError(f"rollout.workflow: {config.workflow!r} is neither single_turn nor ./file.py:Class")
    workflow: Workflow = load_object(config.workflow)(tools)
    return workflow


def render(row: dict[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a row: its `messages` (or `prompt`, as one user message) under the model's chat template."""
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    if tokenizer.chat_template is None:
        return tuple(tokenizer.encode("\n".join(m["content"] for m in messages)))
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def prompt_of(row: dict[str, Any]) -> str:
    """What a reward sees as the prompt: the row's `prompt`, or its last message."""
    return str(row["prompt"] if "prompt" in row else row["messages"][-1]["content"])


def trajectory_of(
    prompt_tokens: tuple[int, ...], completion: Completion, reward: float, parts: dict[str, float]
) -> TokenTrajectory:
    """The prompt and one completion as a trajectory whose actions are the completion's tokens."""
    given = len(prompt_tokens)
    return TokenTrajectory(
        tokens=np.concatenate([np.array(prompt_tokens, np.int32), completion.tokens]),
        versions=np.concatenate([np.full(given, NOT_AN_ACTION, np.int32), completion.versions]),
        behaviour_logprobs=np.concatenate([np.zeros(given, np.float32), completion.logprobs]),
        reward=reward,
        reward_parts=parts,
        finish_reason=completion.finish_reason,
    )
