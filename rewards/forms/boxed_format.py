r"""Whether a text puts its answer in one box, at the end."""

import re

from ..answers.final_answer import box_place

# What may stand after the box: the end of the formula and of the sentence.
_REST = re.compile(r"(?:[\s.*]|\$|\\\)|\\\])*")


def boxed_format(completion: str) -> float:
    r"""1.0 if there is exactly one \boxed{…} (or \fbox{…}), closed, not empty, with nothing after it; else 0.0.

    White space, a full stop, emphasis and the end of a formula may follow: `$\boxed{18}$.` is at the end. What is in the box
    is not judged.
    """
    place = box_place(completion)
    if place is None or completion.count(r"\boxed") + completion.count(r"\fbox") != 1:
        return 0.0
    start, end = place
    return float(bool(completion[start:end].strip()) and _REST.fullmatch(completion, end + 1) is not None)
