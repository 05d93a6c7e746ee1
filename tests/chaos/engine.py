"""An engine that imports nothing heavy and answers at random, and the workflow that goes with it."""

import asyncio
import random
from pathlib import Path

import numpy as np

from areal.broker.errors import EngineError
from areal.broker.trajectory import Prompt, TokenTrajectory
from areal.rollout.engine import Completion, Engine, Request
from areal.rollout.workflow import trajectory_of

from .journal import Journal, Started

VOCABULARY = 64
PROMPT = (3, 4, 5)
MAX_TOKENS = 12
ANSWER_S = (0.2, 1.0)
UPDATE_S = 0.005
POISONED_EVERY = 60
"""One prompt in so many becomes a dead letter."""


class LightEngine:
    """Takes a while for each answer; the tokens of its second half bear the version that was loaded meanwhile."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._tokens = np.random.default_rng(seed)
        self._version = -1

    async def start(self) -> None:
        self._version = -1

    async def generate(self, request: Request) -> Completion:
        length = self._random.randint(2, request.max_tokens)
        half_s = self._random.uniform(*ANSWER_S) / 2
        versions = []
        for part in (length // 2, length - length // 2):
            if self._version < 0:
                raise EngineError("no weights")
            versions += [self._version] * part
            await asyncio.sleep(half_s)
        return Completion(
            tokens=self._tokens.integers(0, VOCABULARY, length).astype(np.int32),
            logprobs=np.full(length, -np.log(VOCABULARY), np.float32),
            versions=np.array(versions, np.int32),
            text="",
            finish_reason="stop",
        )

    async def update_weights(self, version: int, path: Path) -> float:
        if not (path / "model.safetensors").is_file():
            raise EngineError(f"there are no weights at {path}")
        await asyncio.sleep(UPDATE_S)
        self._version = version
        return UPDATE_S

    async def stop(self) -> None:
        self._version = -1


class RandomReward:
    """A workflow of G answers, each with a reward drawn evenly. Notes when it begins; always fails on some prompts."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self._journal = journal
        self._random = random.Random(seed)

    async def run(self, prompt: Prompt, engine: Engine) -> list[TokenTrajectory]:
        self._journal.write(Started(prompt.id))
        if prompt.id % POISONED_EVERY == POISONED_EVERY - 1:
            raise ValueError(f"prompt {prompt.id} cannot be answered")
        request = Request(PROMPT, MAX_TOKENS, 1.0)
        answers = await asyncio.gather(*(engine.generate(request) for _ in range(prompt.group_size)))
        return [trajectory_of(PROMPT, answer, self._random.random(), {}) for answer in answers]
