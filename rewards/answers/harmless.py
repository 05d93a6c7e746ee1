"""Which answers can do no harm to a scorer of reasoning_gym: one that evaluates them as Python, or that takes long over them."""

import ast
import re
from collections.abc import Callable

MAX_EVALUATED_CHARS = 2_000
MAX_PROPOSITION_CHARS = 200
"""Its parser takes time quadratic in the length, and a call more for each sign."""
MAX_NUMBER_CHARS = 20
MAX_POWERS_OF_POWERS = 2

_PLAIN = re.compile(r"[\w\s,;:|-]*")
"""Text without any sign by which Python calls, looks up, multiplies or builds something."""
_WORD = re.compile(r"[A-Za-z_]\w*|\d[\d.]*|\*\*|[-+*/^()\s.]|.", re.DOTALL)
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "exp",
        "log",
        "ln",
        "sqrt",
        "pi",
        "Abs",
        "erf",
    ]
)


def _is_literal(text: str) -> bool:
    """Whether Python reads it as numbers and texts in lists: to evaluate it is to write it down."""
    if _PLAIN.fullmatch(text):
        return True
    try:
        ast.literal_eval(text.strip())
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return False
    return True


def _is_sum(text: str) -> bool:
    """Whether it is numbers put together by + - * / and parentheses, without powers."""
    return (
        bool(re.fullmatch(r"[\d\s+*/().-]*", text)) and "**" not in text.replace(" ", "") and _has_small_numbers(text)
    )


def _is_formula(text: str) -> bool:
    """Whether it is made of numbers, letters, known functions and operations, with exponents that cannot grow large."""
    words = [word for word in _WORD.findall(text) if not word.isspace()]
    for word in words:
        known = len(word) == 1 or word in _FUNCTIONS if word[0].isalpha() else word[0] in "0123456789+-*/^()."
        if not known:
            return False
    powers = [place for place, word in enumerate(words) if word in ("**", "^")]
    after = [words[place - 1] for place in powers if place > 0]
    return (
        _has_small_numbers(text)
        and after.count(")") <= MAX_POWERS_OF_POWERS
        and all(_is_small_exponent(words[place + 1 : place + 7]) for place in powers)
    )


def _is_small_exponent(words: list[str]) -> bool:
    """Whether what follows a power begins with a number of two digits, x, or a fraction in parentheses; no tower."""
    text = "".join(words)
    found = re.match(r"-?(?:\d{1,2}|[a-z])(?![\w.])|\(-?\d{1,2}(?:/\d{1,2})?\)", text)
    return found is not None and not text[found.end() :].startswith(("**", "^"))


def _has_small_numbers(text: str) -> bool:
    return all(len(digits) <= MAX_NUMBER_CHARS for digits in re.findall(r"[\d.]+", text))


_EVALUATED: dict[str, Callable[[str], bool]] = {
    "binary_matrix": _is_literal,
    "n_queens": _is_literal,
    "spiral_matrix": _is_literal,
    "string_insertion": _is_literal,
    "countdown": _is_sum,
    "puzzle24": _is_sum,
    "intermediate_integration": _is_formula,
    "polynomial_multiplication": _is_formula,
    "simple_integration": _is_formula,
}
"""Tasks whose scorers evaluate the answer, and which answers they are given; others score 0."""


def harmless(task: str, answer: str) -> bool:
    """Whether the task's scorer can be given the answer."""
    if task == "propositional_logic":
        return len(answer) <= MAX_PROPOSITION_CHARS
    allows = _EVALUATED.get(task)
    if allows is None:
        return True
    # Python reads ｅｖａｌ as eval
    return answer.isascii() and len(answer) <= MAX_EVALUATED_CHARS and allows(answer)
