"""How much a text repeats itself."""

from collections.abc import Hashable, Sequence
from typing import Literal

from ...broker.errors import RewardError

MAX_CHARS = 200_000
"""How much of the end of a text is looked at."""


def repetition_penalty(
    completion: str, *, size: int = 20, penalty: float = 1.0, unit: Literal["words", "characters"] = "words"
) -> float:
    """−`penalty` · (1 − different n-grams / n-grams), n being `size`: 0 for a text that never repeats so many words.

    Words are what white space separates, whatever their case; take `characters` for languages that do not separate words.
    A text of fewer than `size` + 1 words repeats nothing. Only the last 200,000 characters count. Source: the n-gram
    repetition penalty of arXiv 2502.03373, as one number a text, not one a token; its authors take it off wrong answers only,
    this is for all. Code, tables and restated formulas repeat by nature: hence a large `size`.
    """
    if size < 1:
        raise RewardError(f"kwargs.size of repetition_penalty is {size}, and at least 1 is wanted")
    text = completion[-MAX_CHARS:].lower()
    parts = text.split() if unit == "words" else [character for character in text if not character.isspace()]
    count = len(parts) - size + 1
    if count < 2:
        return 0.0
    return -penalty * (1 - _different(parts, size) / count)


def _different(parts: list[str], size: int) -> int:
    """How many different n-grams there are, in time and memory that do not grow with n.

    Runs of 2, 4, 8, … parts are numbered by the pair of numbers of their halves; one of n is two of these that overlap.
    """
    width, names = 1, _numbered(parts)
    while 2 * width <= size:
        names = _numbered(list(zip(names, names[width:], strict=False)))
        width *= 2
    return len(set(zip(names, names[size - width :], strict=False)))


def _numbered(values: Sequence[Hashable]) -> list[int]:
    """Equal values by equal numbers."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]
