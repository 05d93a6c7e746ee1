"""Numbers as texts write them, read exactly. Digits are ASCII; a quantity beyond MAX_DIGITS or MAX_EXPONENT is not read."""

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

MAX_DIGITS = 400
MAX_EXPONENT = 400

_SIGN = r"(?<![\w.)])[-−]"
_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
# 1,234 and 1234 and 1234.5 and .5; a minus sign counts unless it follows a number or a word (in "9-4" it subtracts).
_NUMBER = re.compile(rf"({_SIGN})?({_DIGITS})")

_LATEX_FRACTION = rf"\\[dt]?frac\s?\{{\s?([-−]?)({_DIGITS})\s?\}}\s?\{{\s?({_DIGITS})\s?\}}"
_EXPONENT = r"(?:[eE]([-+−]?[0-9]+)|\s?(?:×|·|\*|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?[{(]?([-+−]?[0-9]+)[)}]?)"
_QUANTITY = re.compile(
    rf"({_SIGN})?(?:{_LATEX_FRACTION}|({_DIGITS})(?:\s?/\s?({_DIGITS})|{_EXPONENT})?)(\s?\\?%|\s?percent\b)?"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written: of "50%" the value is 50."""

    value: Fraction
    percent: bool

    @property
    def worth(self) -> Fraction:
        """With the percent sign taken into account: of "50%" it is 1/2."""
        return self.value / 100 if self.percent else self.value


def last_number(text: str) -> Decimal | None:
    """The last number in the text, exactly as written, of any length; fractions and powers are not understood."""
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return _as_decimal(last[0]) if last else None


def first_number(text: str) -> Decimal | None:
    """Likewise the first."""
    first = _NUMBER.search(text)
    return _as_decimal(first) if first else None


def last_quantity(text: str) -> Quantity | None:
    """The last number in the text with fraction, power of ten and percent sign; None also for one that is not read."""
    last = deque(_QUANTITY.finditer(text), maxlen=1)
    return _as_quantity(last[0]) if last else None


def as_quantity(text: str) -> Quantity | None:
    """The number that the text is, but for white space around it; None if it is anything else."""
    whole = _QUANTITY.fullmatch(text.strip())
    return _as_quantity(whole) if whole else None


def _as_decimal(found: re.Match[str]) -> Decimal:
    sign, digits = found.groups()
    number = Decimal(digits.replace(",", ""))
    return number.copy_negate() if sign else number


def _as_quantity(found: re.Match[str]) -> Quantity | None:
    sign, inner_sign, numerator, denominator, number, divisor, power, power_of_ten, percent = found.groups()
    if max(len(part or "") for part in (numerator, denominator, number, divisor)) > MAX_DIGITS:
        return None
    exponent = (power or power_of_ten or "0").replace("−", "-")
    if len(exponent) > len(str(MAX_EXPONENT)) + 1 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    below = _exact(denominator or divisor or "1")
    if not below:
        return None
    value = _exact(numerator or number) / below * Fraction(10) ** int(exponent)
    return Quantity(-value if bool(sign) != bool(inner_sign) else value, bool(percent))


def _exact(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
