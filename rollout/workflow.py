"""From a prompt to its trajectories: the episode that a user can replace."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from ..broker.errors import ConfigError
from ..broker.trajectory import NOT_AN_ACTION, Prompt, TokenTrajectory, Trajectory
from ..denoising.config import DenoisingConfig
from ..rewards.grading import Grading
from ..rewards.loading import load_object
from ..rewards.pool import Scorer
from .config import RolloutConfig
from .engine import Completion, Engine, Request, TokenEngine

EngineT_contra = TypeVar("EngineT_contra", bound=Engine, contravariant=True)


class Workflow(Protocol[EngineT_contra]):
    """Written against TokenEngine or ImageEngine; one instance serves every prompt of a worker, concurrently."""

    async def run(self, prompt: Prompt, engine: EngineT_contra) -> Sequence[Trajectory]:
        """The group's trajectories, rewarded. An exception is a failure of the prompt, which is tried again."""


@dataclass(frozen=True)
class Tools:
    """What a workflow is made with: the tokenizer (Hugging Face; none of images), the rewards, and what is configured."""

    tokenizer: Any
    scorer: Scorer
    config: RolloutConfig
    denoising: DenoisingConfig | None = None
    seed: int = 0


class SingleTurn:
    """One question, G answers, each scored as soon as it ends while the others are still generated."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, prompt: Prompt, engine: TokenEngine) -> list[TokenTrajectory]:
        prompt_tokens = render(prompt.row, self._tools.tokenizer)
        grading = self._tools.scorer.grading(prompt_of(prompt.row), prompt.row, prompt.group_size)
        episodes = [
            asyncio.create_task(self._episode(prompt_tokens, engine, grading)) for _ in range(prompt.group_size)
        ]
        try:
            return list(await asyncio.gather(*episodes))
        finally:
            for episode in episodes:
                episode.cancel()  # those left over when one failed

    async def _episode(self, prompt_tokens: tuple[int, ...], engine: TokenEngine, grading: Grading) -> TokenTrajectory:
        sampling = self._tools.config.sampling
        request = Request(prompt_tokens, sampling.max_tokens, sampling.temperature, tuple(sampling.stop))
        completion = await engine.generate(request)
        score = await grading.score(completion.text, **known_of(completion, sampling.max_tokens))
        return trajectory_of(prompt_tokens, completion, score.total, score.parts)


def load_workflow(config: RolloutConfig, tools: Tools) -> Workflow[Any]:
    """The workflow that the configuration names."""
    if config.workflow == "single_turn" and tools.denoising is not None:
        from .images import Images

        return Images(tools)
    if config.workflow == "single_turn":
        return SingleTurn(tools)
    if ":" not in config.workflow:
        raise ConfigError(f"rollout.workflow: {config.workflow!r} is neither single_turn nor ./file.py:Class")
    workflow: Workflow[Any] = load_object(config.workflow)(tools)
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


def known_of(completion: Completion, max_tokens: int) -> dict[str, Any]:
    """What a reward may ask for of an answer beside its text."""
    return {
        "num_tokens": len(completion.tokens),
        "max_tokens": max_tokens,
        "finish_reason": completion.finish_reason,
    }


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
