r"""Whether a text comes to a mathematical answer, by math-verify (github.com/huggingface/Math-Verify).

    last \boxed{…}, else "the answer is …", else the last $…$ or number ─▶ guards ─▶ latex2sympy ─▶ guards ─▶ verify

math-verify's own deadlines are off: they count time on the clock, so that a busy machine would score right answers 0, and
an alarm that rings late hits the next call. Guards turn away what is known to take long, and what gets past them ends at
the pool's deadline. Nothing is evaluated as Python: only math-verify's reader of LaTeX is used, not that of expressions.
"""

import logging
import re
from collections import deque
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with
from .eager import computes_little
from .final_answer import TAIL_CHARS, closing_brace, concluded, last_box
from .magnitude import tame
from .numerals import as_quantity

MAX_CHARS = 300
MAX_DEPTH = 8
"""Of brackets; the reader of LaTeX takes a second at ten."""
MAX_BARS = 8
APART = 1e-4

_SPAN = re.compile(r"\$\$(.{1,400}?)\$\$|\$([^$\n]{1,400})\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"[-−]?[0-9][0-9,]*(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_SPACES = re.compile(r"\s+|(?<!\\)\\(?:[,;:! ]|left(?![a-z])|right(?![a-z]))|\$")


def _begin() -> None:
    _verifier()


@begins_with(_begin)
def math(completion: str, answer: str | float) -> float:
    r"""1.0 if the completion's final answer is mathematically equal to `answer`, else 0.0.

    `answer` is LaTeX or a plain number, or a solution whose last \boxed{…} holds it; one that cannot be read is an error.
    Fractions, roots, sets, intervals, tuples, matrices, equations and inequalities are compared as math-verify does (floats
    to six digits). Unless the gold is an equation, what stands left of an = must be a name: x = 3, f(x) = 3, AB = 3 equal 3,
    and 2 + 1 = 3 or 2x = 3 does not; in x = 6/2 = 3 each value must be right. A set in braces is no tuple and no interval.
    Of several boxes the last counts. A percent sign at the end is not looked at. An answer earns 0 that cannot be read, is
    longer than 300 characters, nests deeper than 8 brackets, would take a number of 10,000 digits or a sum of 500 terms to
    compare (10^{10^{10}}), or has more than small numbers in a binomial, a gcd, a norm or the index of a root; write golds
    without sums, integrals or limits to do.
    """
    wanted, gold = _gold(str(answer))
    given = final_answer(completion)
    if given is None:
        return 0.0
    if (same := _same_text(given, wanted)) is not None:
        return float(same)
    parsed = _parsed(given)
    if parsed is None or not tame(parsed) or _far_apart(gold, parsed) or _other_brackets(gold, wanted, parsed, given):
        return 0.0
    verify = partial(_verifier().verify, timeout_seconds=None)
    if _has_equation(gold):
        return float(verify(gold, parsed))
    return float(_gives_values(parsed) and all(verify(gold, value) for value in _values(parsed)))


def final_answer(text: str) -> str | None:
    """What the text gives as its answer, as LaTeX; None if it gives none."""
    if (box := last_box(text)) is not None:
        return box
    said = concluded(text)
    return (said and _stated(said)) or _last_mathematics(text[-TAIL_CHARS:])


def _stated(said: str) -> str | None:
    """Of what follows `the answer is`: all of it if it has no words, else its last formula or number."""
    bare = said.strip(" *.$")
    if bare and not _WORD.search(bare) and "$" not in bare:
        return bare.removeprefix(r"\(").removesuffix(r"\)").strip()
    return _last_mathematics(said)


def _last_mathematics(text: str) -> str | None:
    spans, numbers = (deque(pattern.finditer(text), maxlen=1) for pattern in (_SPAN, _NUMBER))
    if spans and (not numbers or numbers[0].end() <= spans[0].end()):
        return next(group for group in spans[0].groups() if group is not None)
    return numbers[0].group().rstrip(",") if numbers else None


def _same_text(given: str, wanted: str) -> bool | None:
    """Whether both are the same text or number; None if that takes more to tell."""
    given = _plain(given)
    if given == wanted:
        return True
    if len(given) > MAX_CHARS:
        return False
    ours, theirs = as_quantity(given), as_quantity(wanted)
    if ours is None or theirs is None:
        return None
    if ours.value == theirs.value:
        return True
    return None if "." in given + wanted else False  # a decimal may be a fraction, rounded


def _far_apart(gold: Any, given: Any) -> bool:
    """Whether both are constants that differ in their first digits: a float tells that sooner than all rules of algebra."""
    if not (getattr(gold, "is_number", False) and getattr(given, "is_number", False)):
        return False
    try:
        one, other = complex(gold), complex(given)
    except (ArithmeticError, TypeError, ValueError):
        return False
    return abs(one - other) > APART * max(1.0, abs(one), abs(other))


def _kind(formula: Any) -> str:
    return type(formula).__name__


def _has_equation(formula: Any) -> bool:
    return _kind(formula) == "Equality" or any(map(_has_equation, getattr(formula, "args", ())))


def _gives_values(formula: Any) -> bool:
    """Whether each of its equations gives a name its value: x = 3, not 2x = 3 or 2 + 1 = 3. In a chain the first must."""
    if _is_chain(formula):
        return _is_name(formula._unsorted_args[0].lhs)
    if _kind(formula) == "Equality":
        return _is_name(formula.lhs)
    return all(map(_gives_values, getattr(formula, "args", ())))


def _values(formula: Any) -> list[Any]:
    """What x = 6/2 = 3 says that x is, each time; what is no equation is its own value."""
    if _is_chain(formula):
        return [link.rhs for link in formula._unsorted_args]
    return [formula.rhs if _kind(formula) == "Equality" else formula]


def _is_chain(formula: Any) -> bool:
    links = getattr(formula, "_unsorted_args", ()) if _kind(formula) == "And" else ()
    return bool(links) and all(_kind(link) == "Equality" for link in links)


def _is_name(formula: Any) -> bool:
    """x, a_n, f(x), or AB, which is read as a product of letters."""
    if _kind(formula) == "Mul":
        return all(getattr(factor, "is_Symbol", False) for factor in formula.args)
    return hasattr(formula, "name") and (formula.is_Symbol or bool(formula.args))


def _other_brackets(gold: Any, wanted: str, parsed: Any, given: str) -> bool:
    r"""Whether one is a set in braces, and the other a tuple or an interval: math-verify takes \{1, 2\} for (1, 2)."""
    sides = [(_values(formula)[-1], text) for formula, text in ((gold, wanted), (parsed, given))]
    return any(
        _kind(one) == "FiniteSet" and r"\{" in text and _kind(other) in ("Interval", "Tuple")
        for (one, text), (other, _) in (sides, sides[::-1])
    )


@lru_cache(maxsize=4096)
def _gold(answer: str) -> tuple[str, Any]:
    """The answer as plain text, and as math-verify reads it; raises RewardError if it does not."""
    box = last_box(answer)
    text = _plain(answer if box is None else box)
    number = as_quantity(text)
    exact = text if number is None or text.isdigit() else _as_latex(text, number.value)
    parsed = _read(exact) if _balanced(text) else None
    if parsed is None:
        raise RewardError(
            f"the answer {answer!r:.200} of a row cannot be read as mathematics: wanted is LaTeX or a number, or a solution "
            r"with it in \boxed{…}"
        )
    return text, parsed


def _as_latex(text: str, value: Fraction) -> str:
    """The number as math-verify reads it, who takes 1e5 for a product; a decimal stays one, as it is compared by digits."""
    power = "e" in text.lower() or ("10" in text and "^" in text)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if power else text


def _parsed(given: str) -> Any:
    """What math-verify reads in it, or None if it is not to be given that text."""
    text = _plain(given)
    if not 0 < len(text) <= MAX_CHARS or not _balanced(text) or text.count("|") > MAX_BARS:
        return None
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return _read(text) if deepest <= MAX_DEPTH and computes_little(text) else None


def _read(text: str) -> Any:
    verifier = _verifier()
    config = [verifier.LatexExtractionConfig()]
    found = verifier.parse(
        rf"\boxed{{{text}}}", config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
    )
    return found[0] if found else None


def _balanced(text: str) -> bool:
    return closing_brace(text + "}", 0) == len(text)


def _plain(text: str) -> str:
    """Without dollar and percent signs, and with single spaces."""
    text = text[: 4 * MAX_CHARS].replace(r"\$", "").replace("{,}", ",").replace("−", "-")
    text = _SPACES.sub(" ", text).strip(" .*")
    return text.removesuffix("%").removesuffix("\\").strip()


@lru_cache(maxsize=1)
def _verifier() -> Any:
    """The package, with its tables made: that takes a second, once a process."""
    try:
        import math_verify
    except ImportError as error:
        raise ConfigError("the reward math needs math-verify: pip install 'areal-rl[math]'") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # that its deadlines are off is meant
    math_verify.parse(r"\boxed{\frac{1}{2}}", [math_verify.LatexExtractionConfig()], parsing_timeout=None)
    return math_verify
