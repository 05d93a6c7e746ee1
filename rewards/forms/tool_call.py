"""Whether a text calls the tools that it should, with the right arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...broker.errors import RewardError
from .json_text import NotJson, parse, parse_last, same

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MAX_CALLS = 64


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and its arguments. What should have been a call and is none has no name."""

    name: str | None
    arguments: dict[str, Any]


def tool_call(
    completion: str,
    calls: Sequence[dict[str, Any]] | dict[str, Any] | str,
    *,
    ordered: bool = True,
    partial: bool = True,
    name_share: float = 0.5,
) -> dict[str, float]:
    """How many of the expected `calls` (a column of the row) the completion makes: `name` and `arguments`, together up to 1.

    A call is {"name", "arguments"}; OpenAI's {"type": "function", "function": {…}}, with arguments as JSON text, is understood
    on both sides, and so is a list of calls. The completion's calls are its <tool_call>{…}</tool_call> blocks (Hermes), else
    the JSON that it is, or that its last ```json block is; other text may stand around them. The last block may lack its
    closing tag, at which generation may have stopped. JSON without tags is a call only if it has a name. Each expected call is held
    against the one in its place, or unless `ordered` against the best that is left. `name` is `name_share` times the share of
    right names, `arguments` the rest times the share of right arguments (of all that either side names) under a right name.
    Calls too many, and blocks that are no call, count as wrong ones. Without `partial` it is all or nothing. An expected empty
    list is met by no call. Values are compared as JSON: "1" is not 1. More than 64 calls earn 0.
    """
    wanted, given = expected(calls), made(completion)
    if not wanted and not given:
        return {"name": name_share, "arguments": 1.0 - name_share}
    if not wanted or not given or len(given) > MAX_CALLS:
        return {"name": 0.0, "arguments": 0.0}
    pairs = list(zip(wanted, given, strict=False)) if ordered else _best_pairs(wanted, given)
    count = max(len(wanted), len(given))
    names = sum(one.name == other.name for one, other in pairs) / count
    arguments = sum(agreement(one, other) for one, other in pairs) / count
    if not partial and not names == arguments == 1.0:
        names = arguments = 0.0
    return {"name": name_share * names, "arguments": (1.0 - name_share) * arguments}


def agreement(one: Call, other: Call) -> float:
    """The share of right arguments among all that either call names; 0 under different names, 1 without any arguments."""
    if one.name != other.name:
        return 0.0
    keys = one.arguments.keys() | other.arguments.keys()
    right = [
        key for key in one.arguments.keys() & other.arguments.keys() if same(one.arguments[key], other.arguments[key])
    ]
    return len(right) / len(keys) if keys else 1.0


def made(completion: str) -> list[Call]:
    """The calls that the completion makes."""
    if OPENING in completion:
        blocks = completion.split(OPENING, MAX_CALLS + 1)[1:]
        return [_from_text(block.partition(CLOSING)[0]) for block in blocks]
    try:
        value = parse_last(completion)
    except NotJson:
        return []
    return _from_value(value) if any(map(_has_name, _listed(value))) else []


def expected(calls: Any) -> list[Call]:
    """The row's calls; raises RewardError for what is no list of calls."""
    try:
        found = _from_value(parse(calls) if isinstance(calls, str) else calls)
    except NotJson:
        found = [Call(None, {})]
    if any(call.name is None for call in found):
        raise RewardError(
            f"the calls {calls!r:.200} of a row are no list of {{'name': …, 'arguments': {{…}}}}, nor JSON text of one"
        )
    return found


def _from_text(text: str) -> Call:
    try:
        return _from_one(parse(text))
    except NotJson:
        return Call(None, {})


def _from_value(value: Any) -> list[Call]:
    return [_from_one(one) for one in _listed(value)]


def _listed(value: Any) -> list[Any]:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    return value if isinstance(value, list) else [value]


def _function(value: Any) -> Any:
    """What has the name and the arguments: OpenAI puts it into `function`."""
    return value["function"] if isinstance(value, dict) and isinstance(value.get("function"), dict) else value


def _has_name(value: Any) -> bool:
    value = _function(value)
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _from_one(value: Any) -> Call:
    value = _function(value)
    if not _has_name(value):
        return Call(None, {})
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments) if arguments.strip() else {}
        except NotJson:
            return Call(None, {})
    return Call(value["name"], arguments) if isinstance(arguments, dict) else Call(None, {})


def _best_pairs(wanted: list[Call], given: list[Call]) -> list[tuple[Call, Call]]:
    """Each of `wanted` with one of `given`, the best matches first; only those of one name."""
    matches = [
        (agreement(one, other), i, j)
        for i, one in enumerate(wanted)
        for j, other in enumerate(given)
        if one.name == other.name
    ]
    pairs, left, right = [], set(range(len(wanted))), set(range(len(given)))
    for _, i, j in sorted(matches, key=lambda match: (-match[0], match[1], match[2])):
        if i in left and j in right:
            left.discard(i)
            right.discard(j)
            pairs.append((wanted[i], given[j]))
    return pairs
