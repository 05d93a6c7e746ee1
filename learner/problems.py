"""Problems that are made on the fly: rows to train and evaluate on, and demonstrations for a warm start.

A demonstration of `sort` and `count` either works the answer out and then gives it after `#`, or is lazy and gives one
at once, mostly a wrong one. A model that imitates them can solve the problem but seldom does: what reinforcement
learning has to find is that working it out pays.

    sort    7391  →  7;37;379;1379#1379         each digit inserted into those before it
    count   03kq  →  02lr01ms00nt#nt            two letters shifted n places round the alphabet, by counting down from n

Some take options, of which one says how hard they are: see MAKERS.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ..broker.errors import ConfigError
from .countdown import countdown_key, countdown_row, num_countdowns

Row = dict[str, Any]

ANSWER_MARK = "#"
"""What stands before the final answer in a demonstration."""

COUNT_MEDIAN, COUNT_SIGMA, COUNT_MAX = 6, 1.04, 99
"""Of the lognormal number of places in `count`: a median answer takes 28 tokens, one in a hundred takes 240 or more."""


def prompt_of(row: Row) -> str:
    """The key of a problem that is put in one way only."""
    prompt: str = row["prompt"]
    return prompt


@dataclass(frozen=True, slots=True)
class Problem:
    """An endless source of rows with a `prompt` and its only right `answer`.

    `num_rows` is how many different ones there are (at least), and `key` what those that are not different share. `prefix` opens the prompt of a character model, and
    `trace` is the working that leads from a prompt to its answer; both are None where the model is not made here.
    """

    row: Callable[[Random], Row]
    num_rows: int
    key: Callable[[Row], str] = prompt_of
    prefix: str | None = None
    trace: Callable[[str], str] | None = None

    def demonstration(self, row: Row, rng: Random, *, lazy_fraction: float, wrong_fraction: float) -> str:
        """A completion to imitate: the working and the answer or, in a lazy one, just an answer, perhaps a wrong one."""
        if self.trace is None:
            raise ValueError("this problem has no demonstrations")
        if rng.random() >= lazy_fraction:
            return f"{self.trace(row['prompt'])}{ANSWER_MARK}{row['answer']}"
        answered = self.row(rng) if rng.random() < wrong_fraction else row
        return f"{ANSWER_MARK}{answered['answer']}"


def _sort_row(rng: Random) -> Row:
    digits = rng.choices(string.digits, k=rng.randint(4, 9))
    return {"prompt": "".join(digits), "answer": "".join(sorted(digits))}


def _sort_trace(prompt: str) -> str:
    return ";".join("".join(sorted(prompt[:end])) for end in range(1, len(prompt) + 1))


def _count_row(rng: Random) -> Row:
    places = 0
    while not 1 <= places <= COUNT_MAX:
        places = round(COUNT_MEDIAN * rng.lognormvariate(0.0, COUNT_SIGMA))
    letters = "".join(rng.choices(string.ascii_lowercase, k=2))
    return {"prompt": f"{places:02d}{letters}", "answer": _shift(letters, places)}


def _count_trace(prompt: str) -> str:
    places, letters = int(prompt[:2]), prompt[2:]
    return "".join(f"{places - done:02d}{_shift(letters, done)}" for done in range(1, places + 1))


def _shift(letters: str, places: int) -> str:
    alphabet = string.ascii_lowercase
    return "".join(alphabet[(alphabet.index(letter) + places) % len(alphabet)] for letter in letters)


def arithmetic(*, digits: int = 1, operations: Sequence[str] = ("+", "×")) -> Problem:
    """Two numbers of up to so many digits, added, subtracted (−), multiplied (×) or divided without a rest (÷).

    3 + 4 and 4 + 3 are the same problem, but not where arithmetic has no options: of the 200 rows that there are then, only
    those with the very text of a held-out one are left out.
    """
    within("digits", digits, 1, 9)
    unknown = [sign for sign in operations if sign not in _OPERATIONS]
    if unknown or not operations:
        raise ConfigError(f"kwargs.operations: {list(operations)!r:.100}; some of {' '.join(_OPERATIONS)} are wanted")

    def row(rng: Random) -> Row:
        left, right = rng.randint(0, 10**digits - 1), rng.randint(0, 10**digits - 1)
        sign = rng.choice(operations)
        if sign == "÷":  # made so that it comes out even
            right = max(right, 1)
            left *= right
        answer = _OPERATIONS[sign](left, right)
        return {"prompt": f"What is {left} {sign} {right}? Answer with a number only.", "answer": str(answer)}

    return Problem(row, num_rows=sum(_num_pairs(10**digits, sign) for sign in set(operations)), key=_arithmetic_key)


def _num_pairs(numbers: int, sign: str) -> int:
    """How many problems there are with two of so many numbers; of + and × in whatever order they are."""
    if sign in _COMMUTATIVE:
        return numbers * (numbers + 1) // 2
    return numbers * (numbers - (sign == "÷"))


def _arithmetic_key(row: Row) -> str:
    left, sign, right = row["prompt"].removeprefix("What is ").partition("?")[0].split()
    first, second = sorted((int(left), int(right))) if sign in _COMMUTATIVE else (left, right)
    return f"{first} {sign} {second}"


_COMMUTATIVE = ("+", "×")


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "−": lambda left, right: left - right,
    "×": lambda left, right: left * right,
    "÷": lambda left, right: left // right,
}


def countdown(*, numbers: int = 4, max_number: int = 99, max_target: int = 99) -> Problem:
    """So many numbers to be made into a target by + - * /, each used once. There always is a way: the answer is one."""
    within("numbers", numbers, 2, 8)
    within("max_number", max_number, 2, 10**6)
    within("max_target", max_target, 2, 10**6)
    return Problem(
        lambda rng: countdown_row(rng, numbers, max_number, max_target),
        num_rows=num_countdowns(numbers, max_number),
        key=countdown_key,
    )


def within(key: str, value: Any, least: int, most: int) -> None:
    """Raises ConfigError for an option that is no whole number from least to most."""
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"kwargs.{key}: {value!r:.100}, and a whole number from {least} to {most} is wanted")


PROBLEMS: dict[str, Problem] = {
    "sort": Problem(_sort_row, num_rows=10**9, prefix="s", trace=_sort_trace),
    "count": Problem(_count_row, num_rows=COUNT_MAX * 26**2, prefix="c", trace=_count_trace),
    "arithmetic": replace(arithmetic(), num_rows=200, key=prompt_of),
    "countdown": countdown(),
}
"""As they are without options."""

MAKERS: dict[str, tuple[Callable[..., Problem], str]] = {
    "arithmetic": (arithmetic, "digits"),
    "countdown": (countdown, "numbers"),
}
"""Those that take options, and the option that is their level."""
