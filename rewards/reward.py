"""What a reward is: a function from a completion to a number, or to a few named numbers."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..broker.errors import ConfigError, RewardError

Value = float | dict[str, float]
"""What a function returns: a number, or named parts whose sum counts."""

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of a completion. `total` is the weighted sum; `parts` are what the functions returned, unweighted."""

    total: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reward:
    """A loaded function. `accepted` are the arguments it can be given (None: any), `required` those it must be."""

    name: str
    function: Callable[..., Any]
    kwargs: dict[str, Any]
    accepted: frozenset[str] | None
    required: frozenset[str]

    def __call__(self, prompt: str, completion: str, row: dict[str, Any]) -> Any:
        """What the function returns (of an `async def`: its coroutine), given those columns of the row that it takes.

        All arguments go by name, so a function may leave out what it does not need; `kwargs` win over columns.
        """
        given = {**row, **self.kwargs, "prompt": prompt, "completion": completion}
        if self.accepted is not None:
            given = {name: given[name] for name in self.accepted & given.keys()}
        if missing := self.required - given.keys():
            columns = ", ".join(sorted(row)) or "none"
            raise RewardError(f"{self.name} wants {_quoted(missing)}, which the row lacks; its columns: {columns}")
        return self.function(**given)


def prepare(name: str, function: Callable[..., Any], kwargs: dict[str, Any]) -> Reward:
    """The function with its configured arguments; raises ConfigError if it does not take them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ConfigError(f"reward {name!r} does not tell its parameters; wrap it in a function") from error
    named = frozenset(p.name for p in parameters if p.kind in _NAMED)
    required = frozenset(p.name for p in parameters if p.kind in _NAMED and p.default is p.empty)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
        raise ConfigError(f"reward {name!r} has parameters without a name; its arguments are given by name")
    for wrong in ({} if takes_any else kwargs).keys() - named | kwargs.keys() & {"prompt", "completion"}:
        raise ConfigError(f"reward {name!r} cannot be given the argument {wrong!r}; its parameters: {_quoted(named)}")
    return Reward(name, function, kwargs, None if takes_any else named, required)


def checked(name: str, value: Any) -> Value:
    """What the function `name` returned, as floats; raises RewardError on anything but finite numbers."""
    if not isinstance(value, dict):
        return _finite(name, value)
    if not value or not all(isinstance(part, str) for part in value):
        raise RewardError(f"{name} returned {_shown(value)}, not a mapping of names to numbers")
    return {part: _finite(f"{name} ({part})", number) for part, number in value.items()}


def combine(names: Sequence[str], weights: Sequence[float], values: Sequence[Value]) -> Score:
    """Σ weight · value over the functions; a mapping counts as the sum of its parts."""
    total, parts = 0.0, {}
    for name, weight, value in zip(names, weights, values, strict=True):
        named = {f"{name}.{part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value}
        total += weight * sum(named.values())
        parts.update(named)
    if not math.isfinite(total):
        raise RewardError(f"the weighted sum of {parts} is {total}")
    return Score(total, parts)


def short_names(names: Sequence[str]) -> list[str]:
    """The names under which parts are reported: `f` for `./file.py:f`; one that was taken gets a number (`f_2`)."""
    short: list[str] = []
    for name in names:
        stem = name.rpartition(":")[2]
        count = sum(other.rpartition(":")[2] == stem for other in names[: len(short)])
        short.append(f"{stem}_{count + 1}" if count else stem)
    return short


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(f"{name} returned {_shown(value)}, not a finite number")
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:200]}{'…' if len(text) > 200 else ''} ({type(value).__name__})"


def _quoted(names: frozenset[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
