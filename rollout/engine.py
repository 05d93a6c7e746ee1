"""What a worker asks of an engine, whichever one it is, and what a workflow asks of one of texts or of images.

Legend: T tokens of an answer; N evaluations behind an image, H = N − 1 actions, D… the dimensions of a latent.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..broker.transport import Source

if TYPE_CHECKING:
    from PIL.Image import Image


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


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image wanted, of a row of the data set. `start` is the seed of the noise that it begins with, if not its own."""

    row: dict[str, Any]
    seed: int
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, and how it came about.

    `latents` float16 or float32 [N, D…], from pure noise on, and `levels` int32[N] of each; `logprobs` float32[H] of each
    action, after the cast to the type of the wire; `version` of the weights behind all of them; `condition` and
    `guidance`, which the network was given.
    """

    image: "Image"
    latents: NDArray[Any]
    levels: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    version: int
    condition: dict[str, Any]
    guidance: float


class Engine(Protocol):
    """Acts under weights that can change while it does. All methods are coroutines of one event loop."""

    async def start(self) -> None:
        """Load the model; raises EngineError where it cannot."""

    async def update_weights(self, version: int, source: Source) -> float:
        """Load the weights at `source` under requests in flight; returns the seconds for which these stood still.

        Raises BrokerError where a learner no longer holds them, and the engine goes on with what it has; EngineDied where
        they came in half.
        """

    async def stop(self) -> None:
        """End every process of the engine."""


class TokenEngine(Engine, Protocol):
    """Generates text."""

    async def generate(self, request: Request) -> Completion:
        """One completion; raises EngineDied if the engine dies first, EngineError if it refuses."""


class ImageEngine(Engine, Protocol):
    """Makes images, each of them under one version of the weights."""

    async def generate(self, request: ImageRequest) -> Sample:
        """One image; raises EngineDied if the engine dies first, EngineError if it refuses."""
