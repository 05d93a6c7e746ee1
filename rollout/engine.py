"""What a workflow may ask of an engine, whichever one it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Request:
    """One answer wanted: the prompt's token ids and the limit of the answer."""

    prompt_tokens: tuple[int, ...]
    max_tokens: int
    temperature: float
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of T tokens.

    `tokens` int32[T] (the end-of-text token included), `logprobs` float32[T] as sampled, after temperature, `versions`
    int32[T] of the weights that sampled each token, `text` without special tokens, `finish_reason` stop or length.
    """

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    text: str
    finish_reason: str


class Engine(Protocol):
    """Generates under weights that can change while it does. All methods are coroutines of one event loop."""

    async def start(self) -> None:
        """Load the model; raises EngineError where it cannot."""

    async def generate(self, request: Request) -> Completion:
        """One completion; raises EngineDied if the engine dies first, EngineError if it refuses."""

    async def update_weights(self, version: int, path: Path) -> float:
        """Load the weights at `path` under requests in flight; returns the seconds for which these stood still."""

    async def stop(self) -> None:
        """End every process of the engine."""
