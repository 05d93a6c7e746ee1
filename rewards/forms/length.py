"""Rewards of how long a text is, in tokens."""

import inspect
import math
from typing import Any

from ...broker.errors import ConfigError, RewardError
from ..reward import Reward, begins_with, checked, prepare


def overlong(
    num_tokens: int, max_tokens: int, *, buffer: int, factor: float = 1.0, max_length: int | None = None
) -> float:
    """−`factor` · clamp((num_tokens − (L − buffer)) / buffer, 0, 1): 0 up to `buffer` tokens before L, then falling to −`factor`.

    L is `max_length`, or the limit that the completion was sampled with. Source: soft overlong punishment, DAPO, arXiv
    2503.14476, eq. 13 (there factor is 1, L is 20480 and buffer 4096).

    algorithm.shaping.overlong is the same penalty, taken off in the learner after scale and clip, and no part of the reward
    that metrics show. Take that one by default; take this where the penalty should be seen as a part of the reward, be
    weighted against other parts, or count in evaluation and in choosing the best checkpoint. Taking both counts it twice.
    """
    longest = max_tokens if max_length is None else max_length
    if not 1 <= buffer <= longest:
        raise RewardError(
            f"kwargs.buffer of overlong is {buffer}, not from 1 to the longest completion, {longest} tokens"
        )
    return -factor * min(1.0, max(0.0, (num_tokens - (longest - buffer)) / buffer))


def _begin(of: str, of_kwargs: dict[str, Any] | None) -> None:
    _judge(of, of_kwargs).begin()


@begins_with(_begin)
def cosine_length(
    prompt: str,
    completion: str,
    num_tokens: int,
    max_tokens: int,
    *,
    of: str,
    of_kwargs: dict[str, Any] | None = None,
    right_at: float = 1.0,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    exceeded: float = -1.0,
    **row: Any,
) -> float:
    """r_L + ½(r_0 − r_L)(1 + cos(π·num_tokens/max_tokens)): from r_0 for no tokens to r_L for the most, by whether it is right.

    (r_0, r_L) is `right` if the reward `of` (any reward of texts that is no `async def`, with its `of_kwargs`) is at least
    `right_at`, else `wrong`; a completion that is cut off by its limit gets `exceeded`. So a right answer earns more the
    shorter it is, and a wrong one loses less the longer it has thought. Keep `exceeded` at or
    below both. Source: cosine reward, arXiv 2502.03373, section 4.

    This replaces the reward `of`: do not list that one beside it with a weight. As it takes any column of the row, a kwarg
    that is misspelled is not noticed.
    """
    if num_tokens >= max_tokens:
        return exceeded
    judge = _judge(of, of_kwargs)
    value = checked(judge.name, judge(prompt, completion, {**row, "num_tokens": num_tokens, "max_tokens": max_tokens}))
    is_right = (sum(value.values()) if isinstance(value, dict) else value) >= right_at
    at_none, at_most = right if is_right else wrong
    return at_most + 0.5 * (at_none - at_most) * (1 + math.cos(math.pi * num_tokens / max_tokens))


_judges: dict[str, Reward] = {}


def _judge(of: str, of_kwargs: dict[str, Any] | None) -> Reward:
    """The reward that tells right from wrong, loaded once; raises ConfigError."""
    key = repr((of, of_kwargs))
    if key not in _judges:
        from ..loading import load_reward  # it names this module, too

        function = load_reward(of)
        judge = prepare(of, function, of_kwargs or {})
        if judge.takes != "completion" or inspect.iscoroutinefunction(function):
            raise ConfigError(f"kwargs.of of cosine_length is {of!r}, which rewards images or is an `async def`")
        _judges[key] = judge
    return _judges[key]
