"""Where a text says its answer: in a box, between tags, or after the words `the answer is`. All in linear time."""

import re
from collections import deque

TAIL_CHARS = 4_000
"""How much of the end of a text is searched where an answer has no mark of its own."""
MAX_BOX_CHARS = 100_000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is no brace
_ANSWER_IS = re.compile(r"\banswer\b[^\n.]{0,80}?(?:\bis\b|[:=])", re.IGNORECASE)
_END = re.compile(r"\n|\.(?=[\s*$]|$)")


def last_box(text: str) -> str | None:
    r"""What the last \boxed{…} or \fbox{…} holds; None where there is none, or it is not closed."""
    place = box_place(text)
    return text[place[0] : place[1]] if place else None


def box_place(text: str) -> tuple[int, int] | None:
    """Where the content of that box begins and ends."""
    opened = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    box = _BOX.match(text, opened) if opened >= 0 else None
    end = closing_brace(text, box.end()) if box else None
    return (box.end(), end) if box and end is not None else None


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened just before `start`; None if it does not, or only far away."""
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_BOX_CHARS):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def last_between(text: str, opened: str, closed: str) -> str | None:
    """What stands between the last `closed` and the `opened` before it; None unless both are there, in that order."""
    before, close, _ = text.rpartition(closed)
    _, tag, within = before.rpartition(opened)
    return within if close and tag else None


def concluded(text: str) -> str | None:
    """What the text says after its last `answer is` (or `answer:`), up to the end of that sentence or line."""
    tail = text[-TAIL_CHARS:]
    last = deque(_ANSWER_IS.finditer(tail), maxlen=1)
    if not last:
        return None
    said = tail[last[0].end() :].lstrip("\n *:")
    end = _END.search(said)
    return said[: end.start()] if end else said
