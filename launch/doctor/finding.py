"""What a look at something came to, and how looks are taken: beside each other, each with a deadline, none with a traceback."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...broker.errors import ArealError

Level = Literal["ok", "warning", "problem"]

LOCAL_S = 20.0
"""How long a look at this machine may take; far longer than any does."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was seen, and what mends it unless it is ok."""

    check: str
    level: Level
    seen: str
    remedy: str = ""


def ok(check: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", seen)


def warning(check: str, seen: str, remedy: str) -> Finding:
    """A run would start, and might be slow, unsafe or short-lived."""
    return Finding(check, "warning", seen, remedy)


def problem(check: str, seen: str, remedy: str) -> Finding:
    """A run would not start, or would fail."""
    return Finding(check, "problem", seen, remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at something, which yields what it finds; what it has not found by its deadline it never will."""

    name: str
    look: Callable[[], Iterable[Finding]]
    deadline_s: float = LOCAL_S


def carry_out(checks: Sequence[Check]) -> Iterator[Finding]:
    """What all find, in their order. An error is a finding too, and so is a look that does not end."""
    looks = [_Look(check) for check in checks]
    for look in looks:
        look.thread.start()
    for look in looks:
        yield from look.findings()


@dataclass
class _Look:
    """A check under way, in a thread that nobody waits for once its time is over."""

    check: Check
    found: list[Finding] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._take, name=f"doctor-{self.check.name}", daemon=True)

    def findings(self) -> list[Finding]:
        self.thread.join(max(0.0, self.began + self.check.deadline_s - time.monotonic()))
        if self.thread.is_alive():
            late = f"this was not found out within {self.check.deadline_s:g} s"
            return [
                *self.found,
                problem(self.check.name, late, "see whether the machine, its disks or its network hang"),
            ]
        return self.found

    def _take(self) -> None:
        try:
            for finding in self.check.look():
                self.found.append(finding)
        except ArealError as error:
            self.found.append(problem(self.check.name, str(error), ""))
        except BaseException as error:  # a user's file may even exit
            said = f"it could not be looked at: {type(error).__name__}: {error}"
            self.found.append(problem(self.check.name, said, "this may be an error of areal doctor: please report it"))
