"""The last number of a text: the reward of `arithmetic`."""

import re
from collections import deque
from decimal import Decimal

# 1,234 and 1234 and 1234.5 and .5; a minus sign counts unless it follows a number or a word (in "9-4" it subtracts).
_NUMBER = re.compile(r"((?<![\w.)])[-−])?((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")


def arithmetic(completion: str, answer: str | float) -> float:
    """1.0 if the last number in the completion equals `answer`, else 0.0 (also if there is no number).

    "3 + 4 is 7." earns 1.0 for the answer 7, and so does "7.0"; the words around a number do not matter. Fractions,
    powers and units are not understood: the last number of "1/2" is 2, that of "5e3" is 3.
    """
    wanted = last_number(str(answer))
    if wanted is None:
        raise ValueError(f"the answer {answer!r} holds no number")
    return float(last_number(completion) == wanted)


def last_number(text: str) -> Decimal | None:
    """The last number in the text, exactly as written."""
    last = deque(_NUMBER.finditer(text), maxlen=1)
    if not last:
        return None
    sign, digits = last[0].groups()
    number = Decimal(digits.replace(",", ""))
    return -number if sign else number
