"""The last number of a text, within a tolerance."""

from fractions import Fraction

from ...broker.errors import RewardError
from .final_answer import TAIL_CHARS, last_box
from .numerals import Quantity, as_quantity, last_quantity


def numeric(
    completion: str,
    answer: str | float,
    *,
    absolute: float = 0.0,
    relative: float = 1e-6,
    ignore_percent: bool = False,
) -> float:
    r"""1.0 if the completion's final number is within max(`absolute`, `relative`·|answer|) of `answer`, else 0.0.

    The final number is the last in the last \boxed{…}, else the last in the last 4,000 characters. It may be written 1,234.5,
    1.5e3, 1.5 × 10^3, 3/4 or \frac{3}{4}, and is compared exactly, as a fraction. Where only one of the two has a percent
    sign, 50% is 0.5; where both have, or with `ignore_percent`, signs are not looked at. Mixed numbers ("2 1/2" is 1/2),
    decimal commas and units are not understood; a number of more than 400 digits, or with a power of ten beyond 400, earns 0.
    """
    wanted = as_quantity(str(answer)) or last_quantity(str(answer))
    if wanted is None:
        raise RewardError(f"the answer {answer!r:.200} of a row holds no number that can be read")
    box = last_box(completion)
    given = last_quantity((completion if box is None else box)[-TAIL_CHARS:])
    if given is None:
        return 0.0
    given_value, wanted_value = _comparable(given, wanted, ignore_percent)
    allowed = max(Fraction(absolute), Fraction(relative) * abs(wanted_value))
    return float(abs(given_value - wanted_value) <= allowed)


def _comparable(given: Quantity, wanted: Quantity, ignore_percent: bool) -> tuple[Fraction, Fraction]:
    if ignore_percent or given.percent == wanted.percent:
        return given.value, wanted.value
    return given.worth, wanted.worth
