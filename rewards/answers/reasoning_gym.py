"""The tasks of reasoning_gym by their own scorers (arXiv 2505.24760): the reward of rows that learner/data/gym.py makes.

Some scorers evaluate an answer as Python, by `eval` or SymPy's parser. Those are given only what can do no harm there:
see harmless.py. For a scorer that takes long over an answer there is the deadline of the pool.
"""

import json
import re
import warnings
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, Literal

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with
from .final_answer import last_between, last_box
from .harmless import harmless

Where = Literal["auto", "tags", "mark", "boxed", "last_line", "all"]

MAX_ANSWER_CHARS = 20_000
_MARK = re.compile("answer:", re.IGNORECASE)


def load_gym() -> Any:
    """The package reasoning_gym. Raises ConfigError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a package that it imports
            import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"the package reasoning-gym cannot be imported ({error}): pip install 'areal-rl[reasoning_gym]'"
        ) from error
    return reasoning_gym


def _begin(where: str) -> None:
    """Raises ConfigError for a place that there is not, and where the package is missing."""
    if where not in _PLACES:
        raise ConfigError(f"reward 'reasoning_gym': there is no kwargs.where {where!r}; known: {', '.join(_PLACES)}")
    load_gym()


@begins_with(_begin)
def reasoning_gym(completion: str, answer: str | None, task: str, metadata: str, where: Where = "auto") -> float:
    """What the task's scorer gives for the answer in a completion, from 0 to 1; 0.0 where no answer is found.

    `where` the answer stands: in the last <answer> tags, after the last "Answer:" (to the end), in the last \\boxed{},
    in the last_line, or it is all of the completion. auto takes the first of the former three that is there, else all.
    An answer that the scorer fails on is wrong, if the scorer does not fail on the right one as well.
    """
    given = extracted(completion, where)
    if given is None or len(given) > MAX_ANSWER_CHARS or not harmless(task, given):
        return 0.0
    entry = {"answer": answer, "metadata": read(metadata)}
    scorer = _scorer(task)
    try:
        return float(scorer(given, entry))
    except Exception as error:
        try:
            scorer(answer, entry)
        except Exception:
            raise RewardError(f"the scorer of {task} fails on every answer: {error!r}") from error
        return 0.0


def extracted(completion: str, where: Where = "auto") -> str | None:
    """The answer in a completion, without white space around it; None where there is none."""
    return _PLACES[where](completion)


def written(metadata: dict[str, Any]) -> str:
    """Metadata of an entry as JSON text, from which `read` makes the same again: tuples, fractions, and keys that are no text."""
    return json.dumps(_tagged(metadata), ensure_ascii=False, separators=(",", ":"))


def read(text: str) -> Any:
    """What `written` was given. Raises RewardError for other text."""
    try:
        return _untagged(json.loads(text))
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise RewardError(f"the row's metadata is not what reasoning_gym rows have ({error})") from error


_TUPLE, _PAIRS, _FRACTION = "()", "{}", "/"


def _tagged(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [_tagged(each) for each in value]}
    if isinstance(value, list):
        return [_tagged(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not value.keys() & {_TUPLE, _PAIRS, _FRACTION}:
            return {str(key): _tagged(each) for key, each in value.items()}
        return {_PAIRS: [[_tagged(key), _tagged(each)] for key, each in value.items()]}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Fraction):
        return {_FRACTION: [value.numerator, value.denominator]}
    if hasattr(value, "tolist"):  # of NumPy
        return _tagged(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written")


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_untagged(each) for each in value[_TUPLE])
    if value.keys() == {_FRACTION}:
        return Fraction(*value[_FRACTION])
    if value.keys() == {_PAIRS}:
        return {_untagged(key): _untagged(each) for key, each in value[_PAIRS]}
    return {key: _untagged(each) for key, each in value.items()}


@cache
def _scorer(task: str) -> Callable[[str | None, dict[str, Any]], float]:
    load_gym()
    from reasoning_gym.factory import DATASETS, get_score_answer_fn

    if task not in DATASETS:
        raise RewardError(f"reasoning_gym has no task {task!r}: the row's column `task` names none")
    scorer: Callable[[str | None, dict[str, Any]], float] = get_score_answer_fn(task)
    return scorer


def _in_tags(completion: str) -> str | None:
    inside = last_between(completion, "<answer>", "</answer>")
    return None if inside is None else inside.strip()


def _after_mark(completion: str) -> str | None:
    """After the last "Answer:", of any case, with or without asterisks around it."""
    last = deque(_MARK.finditer(completion), maxlen=1)
    return completion[last[0].end() :].strip().strip("*").strip() if last else None


def _in_box(completion: str) -> str | None:
    box = last_box(completion)
    return None if box is None else box.strip()


def _last_line(completion: str) -> str | None:
    return (completion.strip().splitlines() or [""])[-1].strip()


def _found(completion: str) -> str | None:
    found = (_in_tags(completion), _after_mark(completion), _in_box(completion))
    return next((each for each in found if each is not None), completion.strip())


_PLACES: dict[str, Callable[[str], str | None]] = {
    "auto": _found,
    "tags": _in_tags,
    "mark": _after_mark,
    "boxed": _in_box,
    "last_line": _last_line,
    "all": str.strip,
}
