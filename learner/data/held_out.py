"""What each part of a data set holds out, so that none is trained on what another is evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

from ...broker.errors import ConfigError
from .config import PartConfig
from .table import origins


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What one part holds out.

    Of stored rows the last `tail` are never trained on. Those to evaluate on are the `count` rows from `begin` on: of that
    tail, or of the table elsewhere. Of made rows `kept` has the names and keys of all that the parts have held out so far.
    """

    tail: int
    begin: int
    count: int
    kept: set[tuple[str, str]]


def held_out(parts: Sequence[PartConfig], keys: Sequence[str], shares: Sequence[int]) -> list[HeldOut]:
    """What each part holds out, of which it evaluates its share. Parts with the same rows hold out the same tail.

    `keys` is where each is configured. Raises ConfigError for held-out rows that would be trained on.
    """
    placed = [_placed(*each) for each in zip(parts, keys, shares, strict=True)]
    for one, other in product(placed, repeat=2):
        _require_not_trained_on(one, other)
    tails = [sum(other.share for other in placed if other.evaluated == one.trained) for one in placed]
    for (one, tail), (other, _) in permutations(zip(placed, tails, strict=True), 2):
        _require_same_tail(one, other, tail)
    kept: set[tuple[str, str]] = set()
    result = []
    for index, (one, tail) in enumerate(zip(placed, tails, strict=True)):
        begin = sum(other.share for other in placed[:index] if other.evaluated == one.evaluated)
        result.append(HeldOut(tail, begin, one.share, kept))
    return result


@dataclass(frozen=True, slots=True)
class _Placed:
    """A part, and what its rows to train on and to evaluate on are read from."""

    part: PartConfig
    key: str
    share: int
    trained: frozenset[str]
    evaluated: frozenset[str]


def _placed(part: PartConfig, key: str, share: int) -> _Placed:
    source, split = part.elsewhere or (part.source, part.split)
    trained = origins(part.source, subset=part.subset, split=part.split)
    return _Placed(part, key, share, trained, origins(source, subset=part.subset, split=split))


def _require_not_trained_on(one: _Placed, other: _Placed) -> None:
    """Raises ConfigError if one part is evaluated on rows elsewhere that another is trained on."""
    part = one.part
    if part.elsewhere is not None and one.evaluated & other.trained:
        name = "eval_split" if part.eval_source is None else "eval_source"
        raise ConfigError(
            f"{one.key}.{name}: {part.eval_source or part.eval_split} names rows that are trained on, those of "
            f"{other.key}.source; name others, or leave it out to hold out the last ones of {part.source}"
        )


def _require_same_tail(one: _Placed, other: _Placed, tail: int) -> None:
    """Raises ConfigError if one part holds out its last rows, and another has only some of its files, or more."""
    if tail and one.trained != other.trained and one.trained & other.trained:
        raise ConfigError(
            f"{one.key}.source: {one.part.source} has files that {other.key}.source, {other.part.source}, has too, and its "
            f"last {tail} rows are held out; name other rows in {one.key}.eval_source"
        )
