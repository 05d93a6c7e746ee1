from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.rewards.answers.numerals import Quantity, as_quantity, first_number, last_number, last_quantity


def test_first_and_last_number() -> None:
    assert (first_number("from 1,234.50 to -7"), last_number("from 1,234.50 to -7")) == (Decimal("1234.5"), Decimal(-7))
    assert first_number("1" * 1_000) == last_number("1" * 1_000) == Decimal("1" * 1_000)
    assert first_number("none") is last_number("none") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("−7", -7),
        ("1,234.5", Fraction(2469, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        ("1.5e3", 1500),
        ("1.5E-3", Fraction(3, 2000)),
        ("2 × 10^3", 2000),
        (r"2 \times 10^{-3}", Fraction(1, 500)),
        ("2*10**3", 2000),
        ("1e400", 10**400),
    ],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert as_quantity(f" {text}\n") == Quantity(value, percent=False)
    assert last_quantity(f"not 1 but {text}.") == Quantity(value, percent=False)


@pytest.mark.parametrize("text", ["50%", r"50\%", "50 %", "50 percent"])
def test_percentages(text: str) -> None:
    found = as_quantity(text)
    assert found == Quantity(Fraction(50), percent=True) and found.worth == Fraction(1, 2)


@pytest.mark.parametrize(
    "text", ["", "x", "1 2", "7 apples", "nan", "inf", "1/0", "1e401", "1e999999999", "1" * 401, "٣", "1e٣"]
)
def test_what_is_no_quantity(text: str) -> None:
    assert as_quantity(text) is None


def test_the_last_number_is_not_read_in_parts() -> None:
    assert last_quantity("5, or 1e999999999") is None
    assert last_quantity("5, or 1/0") is None


@given(st.fractions(), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", "{} / {}"]))
def test_any_fraction(value: Fraction, written: str) -> None:
    assert as_quantity(written.format(value.numerator, value.denominator)) == Quantity(value, percent=False)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_as_python_writes_it(value: float) -> None:
    assert as_quantity(repr(value)) == Quantity(Fraction(repr(value)), percent=False)
