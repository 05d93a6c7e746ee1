"""What is printed of times, numbers and texts."""

import math
import time

import pytest

from areal.launch.screen import moment, one_line, plural, recent_moment, safe, span, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("größer 大 → 🙂", "größer 大 → 🙂"),
        ("👩\u200d🔬 نمی\u200cخواهم", "👩\u200d🔬 نمی\u200cخواهم"),
        ("a\nb\tc\r\nd", "a\nb\tc\nd"),
        ("a\rb\x00\x1b[31m\x7f", r"a\rb\x00\x1b[31m\x7f"),
        ("\x85\x9b\u2028\u2029\u202e\u2066\ufeff\xad", r"\x85\x9b\u2028\u2029\u202e\u2066\ufeff\xad"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert safe(text) == shown == safe(shown)


def test_a_line_is_one() -> None:
    assert one_line(" a\n\n b\tc\r\nd\x1b ") == r"a b c d\x1b"


def test_spans() -> None:
    lengths = (-1, 0.04, 9.94, 12.9, 119, 120, 7199, 7200, 172_799, 172_800, math.nan, math.inf)
    assert [span(s) for s in lengths] == [
        *("0.0 s", "0.0 s", "9.9 s", "12 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "–", "–")
    ]


def test_moments() -> None:
    assert moment(time.mktime((2025, 11, 23, 17, 5, 9, 0, 0, -1))) == "2025-11-23 17:05:09"
    assert recent_moment(time.mktime((2025, 11, 23, 17, 5, 9, 0, 0, -1))) == "2025-11-23 17:05"
    assert recent_moment(time.time()) == moment(time.time())[11:]
    assert [moment(odd) for odd in (1e300, math.nan, math.inf)] == ["–"] * 3


def test_numbers_and_json() -> None:
    assert [plural(n, "key") for n in (0, 1, 2000)] == ["0 keys", "1 key", "2,000 keys"]
    assert to_json({"a": [math.nan, "é\x1b"]}) == '{"a": [null, "\\u00e9\\u001b"]}'
