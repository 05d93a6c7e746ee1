import collections
import datetime
import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from areal.rewards.programs.sandbox.values import dumps, loads


class Node:
    def __init__(self, value: int, next: "Node | None" = None) -> None:
        self.value, self.next = value, next


class Slotted:
    __slots__ = ("x",)


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            False,
            0,
            -1,
            2**200,
            -(10**30),
            0.1,
            -0.0,
            1e308,
            2 - 3j,
            "",
            "né 漢 🙂\n\0",
            "\ud83d",
            b"\xff\0",
        ),
        *([], [1, [2, []]], (), ((1,), ()), {}, {1: {"a": (None,)}, (1, 2): [3]}, set(), {1, (2, 3)}, range(3, 9, 2)),
        *(frozenset({1, frozenset({2})}), bytearray(b"ab"), ..., Decimal("1.50"), Fraction(-2, 3)),
        *(datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4), datetime.time(5, 6)),
    ],
)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = loads(dumps(value))
    assert back == value and type(back) is type(value) and repr(back) == repr(value)


def test_what_is_written_is_pinned() -> None:
    assert dumps([-42, "é", (None,)]) == b"l5:1 2 3i3:-2as2:\xc3\xa9t1:4N0:"


def test_numbers_that_are_equal_to_none_come_back() -> None:
    assert repr(loads(dumps([float("inf"), float("-inf"), float("nan")]))) == "[inf, -inf, nan]"


def test_what_derives_from_plain_data_becomes_that() -> None:
    counted = collections.Counter("aab")
    assert loads(dumps([counted, collections.OrderedDict(a=1), Colour.RED])) == [{"a": 2, "b": 1}, {"a": 1}, 3]
    assert [type(each) for each in loads(dumps([counted, Colour.RED]))] == [dict, int]


def test_no_depth_is_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    back, depth = loads(dumps(deep)), 0
    while back:
        (back,), depth = back, depth + 1
    assert depth == 50_000


def test_what_holds_itself_or_is_held_twice_stays_one() -> None:
    twice: list[Any] = [1]
    value: dict[str, Any] = {"a": twice, "b": (twice,)}
    value["self"] = [value]
    back = loads(dumps(value))
    assert back["self"][0] is back and back["a"] is back["b"][0] and back["a"] == [1]


def test_objects_of_classes_that_both_sides_know_go_by_their_attributes() -> None:
    slotted = Slotted()
    slotted.x = Node(1, Node(2))  # type: ignore[attr-defined]
    known = {"Node": Node, "Slotted": Slotted}
    back = loads(dumps(slotted, classes=known), classes=known)
    assert isinstance(back, Slotted) and isinstance(back.x, Node)  # type: ignore[attr-defined]
    assert (back.x.value, back.x.next.value, back.x.next.next) == (1, 2, None)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no value"):
        loads(dumps(slotted, classes=known), classes={"Node": Node})


def test_other_objects_stay_where_they_are() -> None:
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    assert loads(dumps([len, 1], keep), kept.__getitem__) == [len, 1]
    with pytest.raises(TypeError, match="class builtin_function_or_method is no plain data"):
        dumps(len)
    with pytest.raises(ValueError, match="unknown letter 'k'"):
        loads(dumps(len, keep))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"i", b"i:", b"i1:", b"i-1:", b"i99:1", b"i1:z", b"q0:", b"l1:1", b"t1:0", b"e1:1l0:", b"d1:9"),
        *(b"t1:1t1:0", b"o5:int 1d0:", b"x12:os system ls ", b"x30:fractions Fraction 1e999999999", b"s1:\xff"),
        *(b"x34:decimal getcontext 1111111111111", b"y20:datetime date 2026-1", b"f1:x", b"r1:x", b"i9999999999:1"),
    ],
)
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        loads(data)
