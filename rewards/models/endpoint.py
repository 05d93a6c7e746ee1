"""A model on a server that speaks the API of OpenAI, as vLLM's and many others do, and what it answers.

A request that fails (no connection, too slow, 408, 409, 429, 5xx) is made again by the client itself: after half a second,
then twice as long each time up to 8 s, less up to a quarter of it at random, or when the server's Retry-After says.
"""

import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ...broker.errors import ConfigError, RewardError
from ..counters import count

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the server's key, where it wants one."""
MILLION = 1_000_000
START_RETRIES = 2
MAX_SHOWN = 300

Conversation = list[dict[str, Any]]
"""Messages of a role and a content each."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, and why it ended: stop, or length where it was cut off."""

    text: str
    finish_reason: str | None

    @property
    def is_cut(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model, and how it is asked; raises ConfigError for what cannot be.

    `url` is the server's (http://host:8000/v1), `model` one that it serves; its key is read from $OPENAI_API_KEY. At most
    `concurrency` requests are under way at once, each tried `retries` times more and given up after `timeout_s` each time.
    `max_tokens` and `temperature` may be null, for models that refuse them; `extra` goes into the body of a request as it
    is. `prices` are those of a million tokens read and a million written. What it takes is counted under `name`.
    """

    name: str
    url: str
    model: str
    concurrency: int = 16
    retries: int = 3
    timeout_s: float = 30.0
    max_tokens: int | None = 512
    temperature: float | None = 0.0
    prices: Sequence[float] | None = None
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key, least in (("concurrency", 1), ("retries", 0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"kwargs.{key} of {self.name} is {value!r}: a whole number from {least} on is wanted")
        if not (is_number(self.timeout_s) and self.timeout_s > 0):
            raise ConfigError(f"kwargs.timeout_s of {self.name} is {self.timeout_s!r}: seconds above 0 are wanted")
        prices = self.prices
        sound = isinstance(prices, list | tuple) and all(is_number(price) and price >= 0 for price in prices)
        if prices is not None and not (sound and len(prices) == 2):
            raise ConfigError(
                f"kwargs.prices of {self.name} is {prices!r}: [input, output] is wanted, of a million tokens each"
            )

    def require_served(self) -> None:
        """Raises ConfigError where the server is missing, or does not serve the model."""
        served = asyncio.run(_served(self))
        if self.model not in served:
            available = ", ".join(served) or "nothing"
            raise ConfigError(f"{self.url} does not serve {self.model!r} (kwargs.model) but {available}")

    async def ask(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """The reply to each, in their order; raises RewardError with the reason if one cannot be had, and gives up the rest."""
        free = asyncio.Semaphore(self.concurrency)

        async def asked(conversation: Conversation) -> Reply:
            async with free:
                return await self._asked(client, conversation)

        async with _client(self, retries=self.retries) as client:
            asking = [asyncio.ensure_future(asked(conversation)) for conversation in conversations]
            try:
                return list(await asyncio.gather(*asking))
            except Exception as error:
                raise RewardError(f"{self.model} at {self.url} did not answer as wanted: {_reason(error)}") from error
            finally:
                for each in asking:
                    each.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    async def _asked(self, client: Any, conversation: Conversation) -> Reply:
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        count(f"{self.name}_requests")
        response = await client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=conversation,
            extra_body=self.extra,
            **{key: value for key, value in chosen.items() if value is not None},
        )
        answer = response.parse()
        self._count(response.retries_taken, getattr(answer, "usage", None))
        if not getattr(answer, "choices", None):
            raise RewardError(f"it answered with no choice: {response.text:.{MAX_SHOWN}}")
        choice: Any = answer.choices[0]
        reply = Reply(choice.message.content, choice.finish_reason)
        if not isinstance(choice.message.content, str):
            cut = f", cut off at {self.max_tokens} tokens (kwargs.max_tokens)" if reply.is_cut else ""
            raise RewardError(f"it answered with no text{cut}: {response.text:.{MAX_SHOWN}}")
        return reply

    def _count(self, retries: int, usage: Any) -> None:
        if retries:
            count(f"{self.name}_retries", retries)
        if usage is None:
            return
        told = [getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)]
        tokens: list[float] = [number if is_number(number) else 0 for number in told]
        for kind, number in zip(("prompt", "completion"), tokens, strict=True):
            count(f"{self.name}_{kind}_tokens", number)
        if self.prices is not None:
            count(f"{self.name}_cost", sum(n * price for n, price in zip(tokens, self.prices, strict=True)) / MILLION)


def longest_s(timeout_s: float, retries: float) -> float:
    """What one request may take that is tried again so often, without the pauses between; more of them go at once."""
    return timeout_s * (retries + 1)


async def _served(endpoint: Endpoint) -> list[str]:
    try:
        async with _client(endpoint, retries=START_RETRIES) as client:
            return [model.id async for model in client.models.list()]
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"no server with the API of OpenAI answers at {endpoint.url} (kwargs.url): {_reason(error)}. Start it first, as "
            f"`vllm serve MODEL`, and name it with its /v1; if it wants a key, set {KEY}"
        ) from error


def _client(endpoint: Endpoint, *, retries: int) -> Any:
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise ConfigError(
            f"the reward {endpoint.name} needs the package openai: pip install 'areal-rl[judge]'"
        ) from error
    key = os.environ.get(KEY) or "none"
    return AsyncOpenAI(base_url=endpoint.url, api_key=key, max_retries=retries, timeout=float(endpoint.timeout_s))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _reason(error: Exception) -> str:
    """With what lies under it: that a connection failed says less than why."""
    cause = error.__cause__
    return f"{error}" if cause is None else f"{error} ({cause})"
