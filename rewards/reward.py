"""What a reward is: a function from an answer to a number, or to a few named numbers.

    def of_a_text(prompt, completion, **row) -> float
    def of_texts(completions, prompts, **rows) -> list[float]       called once for all answers of a group
    def of_an_image(image, prompt, **row) -> float                  called for each image, a PIL image
    def of_images(images, prompts, **rows) -> list[float]           called once for all images of a group

What a function rewards is told by which of `completion`, `completions`, `image` and `images` it asks for. Where that is a
list, the columns of the row that it names are lists too, an entry for each answer. All but these names it may leave out.
Of texts it may also ask for what is known of an answer: `num_tokens`, its length; `max_tokens`, the limit of that;
`finish_reason`, stop or length. What has to be loaded first is loaded as the reward process starts, see begins_with.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

from ..broker.errors import ConfigError, RewardError

Value = float | dict[str, float]
"""What a function returns: a number, or named parts whose sum counts."""

TEXT, TEXTS, IMAGE, IMAGES = "completion", "completions", "image", "images"
OF_TEXTS = (TEXT, TEXTS)
FACTS = ("num_tokens", "max_tokens", "finish_reason")
"""What is known of a text beside the row."""

_BEGIN, _COLUMNS, _LONGEST_S = "areal_begin", "areal_columns", "areal_longest_s"
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of a completion. `total` is the weighted sum; `parts` are what the functions returned, unweighted."""

    total: float
    parts: dict[str, float]

    def __add__(self, other: "Score") -> "Score":
        """What both are worth together; their functions differ."""
        return Score(self.total + other.total, self.parts | other.parts)


@dataclass(frozen=True, slots=True)
class Reward:
    """A loaded function. `accepted` are the arguments it can be given (None: any), `required` those it must be.

    `takes` is what it rewards: completion, completions, image or images. `settings` are the arguments that its begin takes:
    a column of such a name is not given to it.
    """

    name: str
    function: Callable[..., Any]
    kwargs: dict[str, Any]
    accepted: frozenset[str] | None
    required: frozenset[str]
    takes: str = TEXT
    settings: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Do what its function begins with, if it does; raises ConfigError for what is missing."""
        begin = getattr(self.function, _BEGIN, None)
        if begin is None:
            return
        wanted = self._settings_of(begin)
        if missing := frozenset(name for name, value in wanted.items() if value is inspect.Parameter.empty):
            raise ConfigError(f"reward {self.name!r} wants {_quoted(missing)}: see rewards.functions.kwargs")
        begin(**wanted)

    def require_in_time(self, timeout_s: float) -> None:
        """Raises ConfigError where its settings let a call last longer than `timeout_s`, which would never come to pass."""
        longest = getattr(self.function, _LONGEST_S, None)
        if longest is None:
            return
        settings = self._settings_of(longest)
        if not all(isinstance(value, int | float) for value in settings.values()):
            return  # as begin will say
        if (longest_s := longest(**settings)) > timeout_s:
            told = ", ".join(f"kwargs.{name} {value:g}" for name, value in settings.items())
            raise ConfigError(
                f"a call of reward {self.name!r} may take {longest_s:g} s ({told}), and it is killed after {timeout_s:g} s: "
                f"set rewards.timeout_s to {math.ceil(longest_s)} or more, or lower these"
            )

    def _settings_of(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What this reward's arguments are for the parameters of `function`; Parameter.empty where nothing says."""
        defaults = {p.name: p.default for p in inspect.signature(self.function).parameters.values()}
        given = {**defaults, **self.kwargs}
        return {name: given.get(name, inspect.Parameter.empty) for name in inspect.signature(function).parameters}

    def __call__(self, prompt: str, completion: str, row: dict[str, Any]) -> Any:
        """What the function returns (of an `async def`: its coroutine), given those columns of the row that it takes.

        All arguments go by name, so a function may leave out what it does not need; `kwargs` win over columns.
        """
        self._require(TEXT)
        return self._given({**row, **self.kwargs, "prompt": prompt, TEXT: completion}, row)

    def of_texts(self, prompt: str, answers: Sequence[tuple[str, dict[str, Any]]], row: dict[str, Any]) -> Any:
        """What the function returns for all of these answers, each with what is known of it: a list, or an awaitable of one."""
        self._require(TEXTS)
        known = {
            name: [facts.get(name) for _, facts in answers] for name in {name for _, facts in answers for name in facts}
        }
        return self._of_all(prompt, [text for text, _ in answers], row, known)

    def of_images(self, prompt: str, images: Sequence[Any], row: dict[str, Any]) -> Any:
        """What the function returns for all of these images: a list, or an awaitable of one, or a list of awaitables."""
        if self.takes == IMAGE:
            return [self._given({**row, **self.kwargs, "prompt": prompt, IMAGE: image}, row) for image in images]
        self._require(IMAGES)
        return self._of_all(prompt, images, row, {})

    def _of_all(self, prompt: str, answers: Sequence[Any], row: dict[str, Any], known: dict[str, list[Any]]) -> Any:
        columns = {name: [value] * len(answers) for name, value in row.items()}
        prompts = [prompt] * len(answers)
        return self._given({**columns, **known, **self.kwargs, "prompts": prompts, self.takes: list(answers)}, row)

    def _require(self, takes: str) -> None:
        if self.takes == takes:
            return
        subject = "texts" if self.takes in OF_TEXTS else "images"
        given = "texts" if takes in OF_TEXTS else "images"
        raise RewardError(
            f"{self.name} rewards {subject} (it takes {self.takes!r}), and this run's answers are {given}"
        )

    def _given(self, given: dict[str, Any], row: dict[str, Any]) -> Any:
        given = {name: value for name, value in given.items() if name not in self.settings or name in self.kwargs}
        if self.accepted is not None:
            given = {name: given[name] for name in self.accepted & given.keys()}
        if missing := self.required - given.keys():
            columns = ", ".join(sorted(row)) or "none"
            raise RewardError(f"{self.name} wants {_quoted(missing)}, which the row lacks; its columns: {columns}")
        return self.function(**given)


def begins_with(
    begin: Callable[..., Any], *, columns: Sequence[str] = (), longest_s: Callable[..., float] | None = None
) -> Callable[[_Function], _Function]:
    """Have a reward function begin with this, once in each process that it is called in, before the first image or text.

    `begin` loads what takes long, and raises ConfigError for what is not there: a run then ends before anything is made.
    It is given the arguments of its names, as the function has them by `kwargs` or default; no row changes these, but for
    those in `columns`. A function that begins with something takes no `kwargs` but those that it names. `longest_s` is
    given arguments likewise, and returns the seconds that one call may take by them.
    """

    def marked(function: _Function) -> _Function:
        setattr(function, _BEGIN, begin)
        setattr(function, _COLUMNS, frozenset(columns))
        setattr(function, _LONGEST_S, longest_s)
        return function

    return marked


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
    takes = next((subject for subject in (IMAGES, IMAGE, TEXTS) if subject in named), TEXT)
    begin = getattr(function, _BEGIN, None)
    for wrong in ({} if takes_any and begin is None else kwargs).keys() - named | kwargs.keys() & {
        "prompt",
        "prompts",
        takes,
    }:
        raise ConfigError(f"reward {name!r} cannot be given the argument {wrong!r}; its parameters: {_quoted(named)}")
    settings = inspect.signature(begin).parameters.keys() - getattr(function, _COLUMNS, frozenset()) if begin else ()
    return Reward(name, function, kwargs, None if takes_any else named, required, takes, frozenset(settings))


def require_takes(reward: Reward, *, images: bool) -> None:
    """Raises ConfigError for a reward of texts where answers are images, and the other way round."""
    if images and reward.takes in OF_TEXTS:
        raise ConfigError(
            f"reward {reward.name!r} rewards texts, and an image policy's answers are images: a function is wanted that "
            "takes `image`, or `images` for all of a group at once"
        )
    if not images and reward.takes not in OF_TEXTS:
        raise ConfigError(
            f"reward {reward.name!r} rewards images (it takes {reward.takes!r}), and the answers are texts"
        )


def checked(name: str, value: Any) -> Value:
    """What the function `name` returned, as floats; raises RewardError on anything but finite numbers."""
    if not isinstance(value, dict):
        return _finite(name, value)
    if not value or not all(isinstance(part, str) for part in value):
        raise RewardError(f"{name} returned {_shown(value)}, not a mapping of names to numbers")
    return {part: _finite(f"{name} ({part})", number) for part, number in value.items()}


def all_checked(name: str, values: Any, count: int) -> list[Value]:
    """What the function `name` returned for so many answers, each as `checked`; raises RewardError if it is not so many."""
    listed = values.tolist() if hasattr(values, "tolist") else values  # of numpy and torch
    if not isinstance(listed, list | tuple):
        raise RewardError(
            f"{name} returned {_shown(values)}, and a list of {count} rewards is wanted, one for each answer"
        )
    if len(listed) != count:
        raise RewardError(f"{name} returned {len(listed)} rewards for {count} answers: one for each is wanted")
    return [checked(name, value) for value in listed]


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
