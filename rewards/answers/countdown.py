"""Whether a text reaches a target from given numbers: the game Countdown, as in TinyZero (github.com/Jiayi-Pan/TinyZero)."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ...broker.errors import RewardError
from .expression import NoExpression, evaluate
from .final_answer import last_between, last_box

MAX_LINE = 1_000


def countdown(
    completion: str,
    numbers: Sequence[int],
    target: int,
    *,
    use: Literal["all", "some"] = "all",
    legal: float = 0.0,
) -> float:
    r"""1.0 if the completion's expression comes to `target` and uses each of `numbers` once; `legal` if it only uses them so.

    The expression is what stands in the last <answer>…</answer>, else in the last \boxed{…}, else the last line that is not
    empty; of "(1 + 2) * 3 = 9" the left side. It is made of whole numbers, + - * / (also − × · ÷, \times, \cdot, \div) and
    parentheses, is read by a parser of its own and computed exactly, in fractions. With `use: some` numbers may be left out.
    What is no such expression, divides by zero, is longer than 200 characters or nests deeper than 20 parentheses earns 0.
    """
    available = _whole(numbers, "numbers")
    (wanted,) = _whole([target], "target").elements()
    try:
        value, used = evaluate(_expression(completion))
    except NoExpression:
        return 0.0
    if Counter(used) != available if use == "all" else Counter(used) - available:
        return 0.0
    return 1.0 if value == wanted else legal


def _expression(completion: str) -> str:
    found = last_between(completion, "<answer>", "</answer>")
    if found is None:
        found = last_box(completion)
    if found is None:
        found = completion.rstrip()[-MAX_LINE:].rpartition("\n")[2]
    return found.partition("=")[0].strip(" \n\t$*.")


def _whole(numbers: Sequence[int], column: str) -> Counter[int]:
    try:
        whole = [int(number) for number in numbers]
    except (TypeError, ValueError, OverflowError):
        whole = []
    if not whole or whole != [float(number) for number in numbers]:
        raise RewardError(f"the column {column} of a row holds {numbers!r:.200}, and whole numbers are wanted")
    return Counter(whole)
