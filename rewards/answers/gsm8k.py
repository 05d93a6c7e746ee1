"""Whether a text comes to the answer of a GSM8K problem (Cobbe et al., arXiv 2110.14168): a number, however it is phrased."""

import re
from decimal import Decimal

from ...broker.errors import RewardError
from .final_answer import TAIL_CHARS, concluded, last_box
from .numerals import first_number, last_number

MARK = "####"
MAX_CHARS = 400
"""How much is read of what follows a mark or stands in a box."""

# A first number with another at its side: 18/2, 18 or 20, 18 dollars and 50 cents.
_SEVERAL = re.compile(
    r"[^0-9]*[0-9][0-9,.]*[\s*$)]*(?:[a-z]+\s+)?(?:(?:or|and|to)\b|[-−–+*/:×÷·^]|\\(?:times|cdot|div)\b)[\s*$({]*-?[0-9]"
)


def gsm8k(completion: str, answer: str | float) -> float:
    r"""1.0 if the completion's final number equals `answer`, else 0.0 (also if there is none).

    `answer` is the number, or the dataset's whole solution with its `#### 18`. The completion's number is the first after
    its last `####`; else the last in its last \boxed{…}; else the first in what follows its last "the answer is"; else the
    last in its last 4,000 characters. Of an equation after `####` or "the answer is", what it comes to counts; 18/2 and
    "18 or 20" there are no number. "18.00", "$18", "**18**" and "18 dollars" are 18, "1,800" is 1800; fractions, powers,
    words and digits that are not ASCII are not understood. The number alone is judged, never the way to it.
    """
    wanted = reference(str(answer))
    if wanted is None:
        raise RewardError(
            f"the answer {answer!r:.200} of a row holds no number: wanted is 18, or a text with `#### 18`"
        )
    return float(final_number(completion) == wanted)


def reference(answer: str) -> Decimal | None:
    """The number after the last `####` of the dataset's answer, or the last one if it has no such mark."""
    _, mark, after = answer.rpartition(MARK)
    return first_number(after) if mark else last_number(answer)


def final_number(text: str) -> Decimal | None:
    """The number that the text comes to. What is marked is the answer, also where the mark has no number."""
    _, mark, after = text.rpartition(MARK)
    if mark:
        return _single(after.lstrip()[:MAX_CHARS])
    if (box := last_box(text)) is not None:
        return last_number(_plain(box[-MAX_CHARS:]))
    if (said := concluded(text)) is not None:
        said = said[:MAX_CHARS]
        if first_number(said) is not None:
            return _single(said)
    return last_number(_plain(text[-TAIL_CHARS:]))


def _single(said: str) -> Decimal | None:
    """The first number, or that after the last = of its first line; None if another number stands at its side."""
    line, _, _ = _plain(said).partition("\n")
    result = line.rpartition("=")[2]
    text = result if first_number(result) is not None else _plain(said)
    return None if _SEVERAL.match(text) else first_number(text)


def _plain(text: str) -> str:
    r"""Without LaTeX's spaces and braces around a comma: 1{,}800 and 1,\!800 are 1,800."""
    return text.replace("{,}", ",").replace(r"\!", "").replace(r"\$", "$")
