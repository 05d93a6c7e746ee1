"""The answer that most of a group give: a reward that needs no solution."""

from collections import Counter
from collections.abc import Callable, Sequence

from ...broker.errors import ConfigError
from ..answers.final_answer import last_box
from ..answers.numerals import last_number
from ..reward import begins_with

Extract = Callable[[str], str | None]

MAX_CHARS = 100_000
"""Of an answer, from its end: what is looked at."""


def _number(text: str) -> str | None:
    found = last_number(text)
    return None if found is None else format(found.normalize(), "f")


def _boxed(text: str) -> str | None:
    box = last_box(text)
    return None if box is None else box.strip()


def _last_line(text: str) -> str | None:
    lines = text.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _after_hash(text: str) -> str | None:
    """Unlike in the reward after_hash, with no regard to space around it."""
    _, sign, rest = text.rpartition("#")
    return rest.strip() if sign else None


EXTRACTS: dict[str, Extract] = {
    "number": _number,
    "boxed": _boxed,
    "last_line": _last_line,
    "hash": _after_hash,
    "text": lambda text: text.strip() or None,
}


def _require_known(answer: str) -> None:
    if answer not in EXTRACTS:
        raise ConfigError(f"self_consistency: answer is {answer!r} (kwargs.answer), and can be {', '.join(EXTRACTS)}")


@begins_with(_require_known)
def self_consistency(
    completions: Sequence[str], answer: str = "number", *, least_share: float = 0.0, graded: bool = False
) -> list[float]:
    r"""1.0 for each completion whose answer is that of most in its group, else 0.0 (TTRL, arXiv 2504.16084, section 2.2).

    `answer` says what counts as the answer: the last number, boxed (the last \boxed{…}), last_line, hash (what stands
    after the last #), or text. A completion without one has no vote, and earns 0. Where several answers lead, all of them count
    as the majority; where it has less than `least_share` of the group's votes, there is none. `graded` gives each the share of the
    votes that its answer has. Nothing is known of the truth: a group that errs alike is paid, and a policy that has come to say
    the same whatever it is asked earns all there is. Evaluate by a reward that knows.
    """
    answers = [EXTRACTS[answer](text[-MAX_CHARS:]) for text in completions]
    votes = Counter(each for each in answers if each is not None)
    most = max(votes.values(), default=0)
    if most < least_share * len(completions):
        return [0.0] * len(completions)
    if graded:
        return [votes[each] / len(completions) if each is not None else 0.0 for each in answers]
    return [float(each is not None and votes[each] == most) for each in answers]
