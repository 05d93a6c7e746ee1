"""JSON in texts that nobody has checked: bounded in size and depth, and without Python's NaN and Infinity."""

import json
import math
import re
from typing import Any

MAX_CHARS = 100_000
MAX_DEPTH = 64

# A string ends with the text if nothing else ends it: no text is scanned twice.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z)|[\[\]{}]', re.DOTALL)
_FENCE = "```"


class NotJson(ValueError):
    """The text is no JSON, or more of it than is read."""


def parse(text: str) -> Any:
    """The value that the text is; raises NotJson."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        raise NotJson(f"{len(text)} characters, more than {MAX_CHARS}")
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > MAX_DEPTH:
            raise NotJson(f"nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_refused)
    except ValueError as error:
        raise NotJson(str(error)) from error


def parse_last(text: str) -> Any:
    """The value that the whole text is, else that of its last ```json (or unnamed ```) block; raises NotJson."""
    stripped = text.strip()
    if stripped[:1] in ("{", "[", '"') or not stripped.endswith(_FENCE):
        try:
            return parse(stripped)
        except NotJson:
            pass
    return parse(last_block(stripped))


def last_block(text: str) -> str:
    """What the last fenced block holds that is closed, without its name; raises NotJson unless that is json or none."""
    before, close, _ = text.rpartition(_FENCE)
    _, opened, block = before.rpartition(_FENCE)
    name, _, content = block.partition("\n")
    if not close or not opened or name.strip().lower() not in ("", "json"):
        raise NotJson("neither JSON nor a ```json block")
    return content


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1 is 1.0 but not true, and objects have no order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def canonical(value: Any) -> str:
    """The same text for the same JSON, as `same` has it."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    """With 1.0 as 1."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson(f"{digits:.40} is beyond floating point")
    return number


def _refused(name: str) -> float:
    raise NotJson(f"{name} is not JSON")
