"""What the commands print: text that no terminal obeys, tables that fit, and JSON.

What comes out of Redis may have been written by anyone: nothing of it reaches a terminal as it is.
"""

import json
import math
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from .records.rundir import finite

DASH = "–"
GAP = "  "
CLEAR_S = 12 * 3600
MIN_LAST = 24  # columns that the last one of a table has at least, however narrow the terminal
JOINERS = "\u200c\u200d"  # some scripts and emoji need them, and they move nothing
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""The kinds of characters that steer a terminal, hide or turn text about, or cannot be printed at all."""


def safe(text: str) -> str:
    r"""The text with such characters written out, as \x1b or \u202e; newlines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_safe_character, text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    """The text on one line, safe."""
    return safe(" ".join(text.split()))


def span(seconds: float) -> str:
    """How long, in a number and a unit: 0.4 s, 12 s, 3 min, 5 h, 2 d."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit_s:.0f} {unit}"
    return f"{seconds // 86_400:.0f} d"


def moment(seconds: float) -> str:
    """A time in Unix seconds, as the clocks here showed it."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return DASH


def recent_moment(seconds: float) -> str:
    """The same, shorter: without the date where that is clear, without the seconds where they are long past."""
    return moment(seconds)[11:] if abs(time.time() - seconds) < CLEAR_S else moment(seconds)[:16]


def plural(number: int, noun: str) -> str:
    """The number with its noun: 1 key, 2,000 keys."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def to_json(value: Any) -> str:
    """The value on a line of JSON, all of it ASCII; null for what is not finite."""
    return json.dumps(finite(value), allow_nan=False)


def to_text(value: Any) -> str:
    """The value as JSON for people: indented, in its own script."""
    return json.dumps(finite(value), allow_nan=False, indent=2, ensure_ascii=False)


class Screen:
    """Standard output: in colour and cut to its width where it is a terminal, plain and whole elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)

    def put(self, *parts: str | tuple[str, str] | Text) -> None:
        """Print what the parts make together: texts, or texts and their styles, made safe; or Text, which must be."""
        with self._console.capture() as captured:
            self._console.print(Text.assemble(*map(_safe_part, parts)), soft_wrap=True)
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(captured.get().encode(encoding, "backslashreplace").decode(encoding))

    def cut(self, line: Text, at_least: int) -> Text:
        """The line as far as the terminal shows it, and so many columns of it however narrow that is."""
        if self._console.is_terminal:
            line.truncate(max(self._console.width, at_least), overflow="ellipsis")
        return line


class Table:
    """Rows under titles, printed some at a time; a title that begins with ">" is of numbers, the last one is of text."""

    def __init__(self, screen: Screen, *titles: str) -> None:
        self._screen = screen
        self._numeric = [title.startswith(">") for title in titles]
        self._head: list[Sequence[str | Text]] = [[Text(title.removeprefix(">"), "dim") for title in titles]]
        self._widths = [0] * len(titles)

    def put(self, rows: Iterable[Sequence[str | Text]]) -> None:
        """Print rows: the first time with the titles, and no narrower than those before. The last column gives way."""
        cells = [[_cell(cell) for cell in row] for row in [*self._head, *rows]]
        self._head = []
        for row in cells:
            self._widths = [max(width, cell.cell_len) for width, cell in zip(self._widths, row, strict=True)]
        if cells:
            self._screen.put(Text("\n").join(map(self._line, cells)))

    def _line(self, row: Sequence[Text]) -> Text:
        parts: list[str | Text] = []
        for cell, width, numeric in zip(row[:-1], self._widths, self._numeric, strict=False):
            blank = " " * (width - cell.cell_len)
            parts += [blank, cell, GAP] if numeric else [cell, blank, GAP]
        fixed = sum(self._widths[:-1]) + len(GAP) * (len(row) - 1)
        line = Text.assemble(*parts, row[-1])
        line.rstrip()
        return self._screen.cut(line, at_least=fixed + MIN_LAST)


def _safe_part(part: str | tuple[str, str] | Text) -> str | tuple[str, str] | Text:
    if isinstance(part, Text):
        return part
    return safe(part) if isinstance(part, str) else (safe(part[0]), part[1])


def _cell(cell: str | Text) -> Text:
    """On one line."""
    return cell if isinstance(cell, Text) else Text(one_line(cell))


def _safe_character(character: str) -> str:
    if character in "\n\t" or character in JOINERS or unicodedata.category(character) not in UNSAFE:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
