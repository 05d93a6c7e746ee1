"""What is being done, how long it took, and waits that end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.table import Table

T = TypeVar("T")


class Overdue(AssertionError):
    """What was awaited did not come."""


@dataclass
class Stages:
    """A line as each stage begins and ends, and a table of all."""

    taken_s: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"{name} …", flush=True)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.taken_s[name] = time.monotonic() - begun
            print(f"    {self.taken_s[name]:.1f} s {self.notes.get(name, '')}", flush=True)

    def note(self, name: str, text: str) -> None:
        """What came of a stage, in a few words."""
        self.notes[name] = text

    def table(self) -> Table:
        table = Table("what was done", "s", "what came of it")
        table.columns[1].justify = "right"
        for name, taken_s in self.taken_s.items():
            table.add_row(name, f"{taken_s:.1f}", self.notes.get(name, ""))
        table.add_section()
        table.add_row("all", f"{sum(self.taken_s.values()):.1f}")
        return table


def await_(what: str, look: Callable[[], T | None], *, timeout_s: float, every_s: float = 0.5) -> T:
    """What `look` returns once it is neither None nor False. Raises Overdue."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen is not None and seen is not False:
            return seen
        if time.monotonic() > deadline:
            raise Overdue(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
