"""`areal logs`: what the roles of a run have printed, from the files in its run directory.

A line that begins a record says when and at which level; those that follow (a traceback, say) belong to it.
"""

import heapq
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...broker.errors import ArealError
from ..records.rundir import DRIVER_LOG
from ..screen import Screen
from .look import GUARDED_S, look_into

RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
STYLES = {2: "yellow", 3: "bold red", 4: "bold red"}
FOLLOW_S = 0.3
CHUNK_BYTES = 2**16
DRIVER = DRIVER_LOG.removesuffix(".log")

WORDS = "DEBUG|INFO|WARNING|ERROR|CRITICAL"
BEGINS = re.compile(
    rf"(?P<at>\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}}) (?P<role>{WORDS}) "  # of a role,
    rf"|(?:\([^)]*\) )?(?P<engine>{WORDS}) \d\d-\d\d "  # of vLLM inside it,
    r"| *\d+\.\d s  (?P<driver>warning|error): "  # and of the driver
    r"| *\d+\.\d s  |step +\d|eval +\d"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log; `at` is a time of the clock there, as text that sorts, and `rank` one of RANKS."""

    at: str
    role: str
    rank: int
    text: str


class Log:
    """A file that grows, read from its beginning, each whole line once."""

    def __init__(self, path: Path) -> None:
        self.role = path.stem
        self._path = path
        self._read = 0
        self._at, self._rank = "", RANKS["info"]

    def lines(self, rank: int) -> Iterator[Line]:
        """Those that have come since the last call, of that rank or above; none while there is no such file."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            rest = b""
            while chunk := file.read(CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                for each in whole:
                    self._read += len(each) + 1
                    line = self._line(each.decode(errors="replace").rstrip("\r"))
                    if line.rank >= rank:
                        yield line

    def _line(self, text: str) -> Line:
        if begins := BEGINS.match(text):
            self._at = begins["at"] or self._at
            self._rank = RANKS[(begins["role"] or begins["engine"] or begins["driver"] or "info").lower()]
        return Line(self._at, self.role, self._rank, text)


def show_logs(directory: Path, roles: Sequence[str], *, last: int, level: str, follow: bool) -> int:
    """Print the last lines of the logs of roles by time, and with `follow` those that come, until the run ends.

    roles: all by default, or the driver where there is no other log.
    last: how many lines of each at most, of those of the level or above.
    Raises ArealError for a role without a log.
    """
    folder, rank = directory / "logs", RANKS[level]
    logs = {role: Log(path) for role, path in _files(folder, roles).items()}
    printer = _Printer(named=len(logs) > 1 or (follow and not roles))
    printer.put(heapq.merge(*(deque(log.lines(rank), last) for log in logs.values()), key=lambda line: line.at))
    for _ in _until_end(directory) if follow else ():
        for role, path in _files(folder, roles).items():
            printer.put(logs.setdefault(role, Log(path)).lines(rank))
    return 0


def _until_end(directory: Path) -> Iterator[None]:
    """Again and again while the run goes on, and once after that; a driver that was killed may be replaced for GUARDED_S."""
    held_at, goes_on = time.monotonic(), True
    while goes_on:
        look = look_into(directory)
        held_at = time.monotonic() if look.held else held_at
        goes_on = look.held or (look.awaited and time.monotonic() - held_at < GUARDED_S)
        yield
        if goes_on:
            time.sleep(FOLLOW_S)


def _files(folder: Path, roles: Sequence[str]) -> dict[str, Path]:
    files = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not files:
        raise ArealError(f"there are no logs in {folder}/ yet")
    if odd := [role for role in roles if role not in files]:
        raise ArealError(f"there is no log of {odd[0]!r} in {folder}/; there are those of {', '.join(files)}")
    if roles:
        return {role: files[role] for role in roles}
    return {role: path for role, path in files.items() if role != DRIVER} or files


class _Printer:
    """Prints lines, after the names of their roles where there are several."""

    def __init__(self, *, named: bool) -> None:
        self._named = named
        self._width = 0
        self._screen = Screen()

    def put(self, lines: Iterator[Line]) -> None:
        for line in lines:
            self._width = max(self._width, len(line.role))
            name = f"{line.role:<{self._width}}  " if self._named else ""
            self._screen.put((name, "dim"), (line.text, STYLES.get(line.rank, "")))
        sys.stdout.flush()
