"""The numbers game of Countdown: some numbers, and a target to be made of all of them by + - * /."""

import math
from random import Random
from typing import Any

from ..broker.errors import ConfigError

PROMPT = (
    "Using each of the numbers {numbers} exactly once, with + - * / and parentheses, write an expression that equals "
    "{target}."
)
MAX_DRAWS = 100_000
"""Of numbers that are put together, until a target comes out that is within its bounds."""


def countdown_row(rng: Random, count: int, max_number: int, max_target: int) -> dict[str, Any]:
    """A row: `numbers` from 1 to max_number, a `target` from 1 to max_target that is none of them, and an `answer`.

    The target is what random operations make of the numbers, without fractions or anything below 1 on the way.
    """
    for _ in range(MAX_DRAWS):
        numbers = [rng.randint(1, max_number) for _ in range(count)]
        target, answer = _put_together(rng, numbers)
        if target <= max_target and target not in numbers:
            prompt = PROMPT.format(numbers=", ".join(map(str, numbers)), target=target)
            return {"prompt": prompt, "numbers": numbers, "target": target, "answer": answer}
    raise ConfigError(
        f"kwargs: of {MAX_DRAWS} draws of {count} numbers up to {max_number} none made a target up to {max_target}; raise "
        "kwargs.max_target"
    )


def countdown_key(row: dict[str, Any]) -> str:
    """The numbers in order, and the target: the same for rows that give them in another order."""
    return f"{sorted(row['numbers'])} {row['target']}"


def num_countdowns(count: int, max_number: int) -> int:
    """How many sets of numbers there are, each with at least one target where that is bounded by their sum or more."""
    return math.comb(max_number + count - 1, count)


def _put_together(rng: Random, numbers: list[int]) -> tuple[int, str]:
    """What two by two come to in the end, and how it is written."""
    terms = [(number, str(number)) for number in numbers]
    while len(terms) > 1:
        left, right = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        value, sign = rng.choice(_results(left[0], right[0]))
        terms.append((value, f"({left[1]} {sign} {right[1]})"))
    value, written = terms[0]
    return value, written[1:-1]


def _results(left: int, right: int) -> list[tuple[int, str]]:
    results = [(left + right, "+"), (left * right, "*")]
    if left > right:
        results.append((left - right, "-"))
    if left % right == 0:
        results.append((left // right, "/"))
    return results
