"""Whether a text is, or holds, what a pattern describes.

Patterns are the user's and texts are hostile: `(a+)+$` takes a backtracking engine 2ⁿ steps on n a's. The package regex has
a deadline within its matcher and all of re's syntax; RE2 needs none, but knows no look-around and no back-references.
"""

from functools import lru_cache
from typing import Literal

import regex as engine

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> "engine.Pattern[str]":
    try:
        return engine.compile(pattern, engine.DOTALL | (engine.IGNORECASE if ignore_case else 0))
    except engine.error as error:
        raise ConfigError(f"kwargs.pattern {pattern!r:.200} of the reward regex is no pattern: {error}") from error


def _begin(pattern: str, ignore_case: bool) -> None:
    _compiled(pattern, ignore_case)


@begins_with(_begin)
def regex(
    completion: str,
    *,
    pattern: str,
    where: Literal["whole", "anywhere"] = "whole",
    ignore_case: bool = False,
    limit_s: float = 1.0,
) -> float:
    """1.0 if the `pattern` matches the whole completion (or, `where: anywhere`, is found in it), else 0.0.

    The syntax is that of the package regex; a dot matches line breaks, too. A match that takes longer than `limit_s` is a
    failure and not a score: mend the pattern (nested repetitions are what takes long). White space at the ends counts.
    """
    compiled = _compiled(pattern, ignore_case)
    match = compiled.fullmatch if where == "whole" else compiled.search
    try:
        return float(match(completion, timeout=limit_s) is not None)
    except TimeoutError as error:
        raise RewardError(
            f"the pattern {pattern!r:.200} took longer than {limit_s:g} s (kwargs.limit_s) on a completion of "
            f"{len(completion)} characters: write it without nested repetitions"
        ) from error
