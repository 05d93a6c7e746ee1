"""How large a formula would become if it were computed or multiplied out: known before it is tried.

sympy computes 9**9**9 and multiplies out (x + 1)**1000 when it is asked whether they equal something, in minutes or never.
A formula as math-verify reads it is not computed yet, so its tree tells.
"""

import math
from dataclasses import dataclass
from typing import Any

MAX_DIGITS = 10_000
MAX_TERMS = 500
MAX_EXPONENT_DIGITS = 4
MAX_DEGREE = 30
"""Of a sum with unknowns in it."""
_LEFT_TO_DO = ("Sum", "Product", "Integral", "Derivative", "Limit")
_FACTORIAL = ("factorial", "factorial2", "subfactorial", "gamma", "binomial", "RisingFactorial", "FallingFactorial")


@dataclass(frozen=True, slots=True)
class Magnitude:
    """At most about so many digits in its numbers, and so many terms when multiplied out."""

    digits: float
    terms: float


ENDLESS = Magnitude(math.inf, math.inf)


def tame(formula: Any) -> bool:
    """Whether the formula can be compared in reasonable time, as far as its size tells."""
    try:
        found = magnitude(formula)
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return False
    return found.digits <= MAX_DIGITS and found.terms <= MAX_TERMS


def magnitude(formula: Any) -> Magnitude:
    """Of a sympy expression or matrix. What is left to do (sums, products, integrals, derivatives, limits) is endless."""
    name = type(formula).__name__
    if name in _LEFT_TO_DO or _entries(formula) > MAX_TERMS:
        return ENDLESS
    if getattr(formula, "is_Rational", False):
        return Magnitude(max(1.0, (formula.p.bit_length() + formula.q.bit_length() - 1) * math.log10(2)), 1)
    parts = [magnitude(part) for part in (formula.flat() if hasattr(formula, "flat") else getattr(formula, "args", ()))]
    if not parts:
        return Magnitude(1, 1)
    digits = sum(part.digits for part in parts)
    if name in ("Pow", "MatPow"):
        return _power(formula, *parts)
    if name in _FACTORIAL:
        largest = max(part.digits for part in parts)
        return Magnitude(10**largest * largest if largest <= MAX_EXPONENT_DIGITS else math.inf, 1)
    if name in ("Mul", "MatMul"):
        return Magnitude(digits, math.prod(part.terms for part in parts))
    return Magnitude(digits, sum(part.terms for part in parts))


def _entries(formula: Any) -> int:
    """How many entries a matrix has; a mutable one has no `args`, and one that is mostly zeros lists them only when asked."""
    return math.prod(formula.shape) if hasattr(formula, "flat") else 0


def _power(formula: Any, base: Magnitude, exponent: Magnitude) -> Magnitude:
    """b**n has n times the digits of b, and of t terms C(t + n − 1, n)."""
    if formula.exp.free_symbols:
        return Magnitude(base.digits + exponent.digits, base.terms)
    if exponent.digits > MAX_EXPONENT_DIGITS + 2:
        return ENDLESS
    degree = abs(complex(formula.exp))
    if base.terms == 1 or not formula.base.free_symbols:
        return Magnitude(base.digits * max(1.0, degree), base.terms)
    if degree > MAX_DEGREE or base.terms > MAX_TERMS:
        return ENDLESS
    whole = math.ceil(degree)
    return Magnitude(base.digits * max(1, whole), math.comb(int(base.terms) + max(whole, 1) - 1, max(whole, 1)))
