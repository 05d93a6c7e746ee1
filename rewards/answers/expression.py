r"""Sums, products and quotients of whole numbers, as a text writes them, computed exactly.

sum     = product (("+" | "-") product)*
product = factor (("*" | "/") factor)*
factor  = "-" factor | "(" sum ")" | digits
"""

import re
from collections.abc import Iterator
from fractions import Fraction

MAX_CHARS = 200
MAX_DEPTH = 20
MAX_DIGITS = 12

_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")
_WRITTEN = {
    "−": "-",
    "×": "*",
    "·": "*",
    "÷": "/",
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\left": "",
    r"\right": "",
}


class NoExpression(ValueError):
    """The text is no such expression, or has no value."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The value of the expression, and the numbers in it as they come; raises NoExpression."""
    if len(text) > MAX_CHARS:
        raise NoExpression(f"{len(text)} characters, more than {MAX_CHARS}")
    for written, meant in _WRITTEN.items():
        text = text.replace(written, meant)
    parser = _Parser(list(_tokens(text)))
    value = parser.sum(0)
    if parser.next is not None:
        raise NoExpression(f"nothing was expected where {parser.next!r} stands")
    return value, parser.numbers


def _tokens(text: str) -> Iterator[str]:
    place, text = 0, text.rstrip()
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or len(token[1] or "") > MAX_DIGITS:
            raise NoExpression(f"{text[place : place + 20]!r} is neither a number nor an operator")
        yield token[1] or token[2]
        place = token.end()


class _Parser:
    """One method a rule of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]
        self.numbers: list[int] = []

    @property
    def next(self) -> str | None:
        return self._tokens[-1] if self._tokens else None

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.next in ("+", "-"):
            sign = 1 if self._tokens.pop() == "+" else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.next in ("*", "/"):
            times = self._tokens.pop() == "*"
            factor = self._factor(depth)
            if not times and not factor:
                raise NoExpression("it divides by zero")
            value = value * factor if times else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH or not self._tokens:
            raise NoExpression(f"it ends too early, or nests deeper than {MAX_DEPTH}")
        token = self._tokens.pop()
        if token == "-":
            return -self._factor(depth + 1)
        if token == "(":
            value = self.sum(depth + 1)
            if not self._tokens or self._tokens.pop() != ")":
                raise NoExpression("a parenthesis is not closed")
            return value
        if not token.isdigit():
            raise NoExpression(f"{token!r} stands where a number was expected")
        self.numbers.append(int(token))
        return Fraction(self.numbers[-1])
