"""Problems that are made on the fly: rows to train and evaluate on, and demonstrations for a warm start.

A demonstration of `sort` and `count` either works the answer out and then gives it after `#`, or is lazy and gives one
at once, mostly a wrong one. A model that imitates them can solve the problem but seldom does: what reinforcement
learning has to find is that working it out pays.

    sort    7391  →  7;37;379;1379#1379         each digit inserted into those before it
    count   03kq  →  02lr01ms00nt#nt            two letters shifted n places round the alphabet, by counting down from n
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Row = dict[str, str]

ANSWER_MARK = "#"
"""What stands before the final answer in a demonstration."""

COUNT_MEDIAN, COUNT_SIGMA, COUNT_MAX = 6, 1.04, 99
"""Of the lognormal number of places in `count`: a median answer takes 28 tokens, one in a hundred takes 240 or more."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An endless source of rows with a `prompt` and its only right `answer`.

    `num_rows` is how many different ones there are (at least). `prefix` opens the prompt of a character model, and
    `trace` is the working that leads from a prompt to its answer; both are None where the model is not made here.
    """

    row: Callable[[Random], Row]
    num_rows: int
    prefix: str | None = None
    trace: Callable[[str], str] | None = None

    def demonstration(self, row: Row, rng: Random, *, lazy_fraction: float, wrong_fraction: float) -> str:
        """A completion to imitate: the working and the answer or, in a lazy one, just an answer, perhaps a wrong one."""
        if self.trace is None:
            raise ValueError("this problem has no demonstrations")
        if rng.random() >= lazy_fraction:
            return self.trace(row["prompt"]) + ANSWER_MARK + row["answer"]
        answered = self.row(rng) if rng.random() < wrong_fraction else row
        return ANSWER_MARK + answered["answer"]


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


def _arithmetic_row(rng: Random) -> Row:
    left, right = rng.randint(0, 9), rng.randint(0, 9)
    sign, answer = rng.choice((("+", left + right), ("×", left * right)))
    return {"prompt": f"What is {left} {sign} {right}? Answer with a number only.", "answer": str(answer)}


PROBLEMS: dict[str, Problem] = {
    "sort": Problem(_sort_row, num_rows=10**9, prefix="s", trace=_sort_trace),
    "count": Problem(_count_row, num_rows=COUNT_MAX * 26**2, prefix="c", trace=_count_trace),
    "arithmetic": Problem(_arithmetic_row, num_rows=200),
}
