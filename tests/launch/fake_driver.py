"""A driver that runs nothing: it holds a run directory, keeps its logbook, and heeds what it is asked, in a thread."""

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.helm import RUNNING, Helm
from areal.launch.driver.logbook import INTERRUPTED, Logbook
from areal.launch.records.rundir import RunDirectory

PATIENCE_S = 20.0


class FakeDriver:
    """Of the run of a directory on the tests' Redis, under way while in the context, or until it ends by itself."""

    def __init__(
        self, directory: Path, client: Client, *, heeds: bool = True, state: str = RUNNING, guard: int | None = None
    ) -> None:
        self.asked: str | None = None
        self._heeds = heeds
        self._rundir = RunDirectory(directory, config=(directory / "config.yaml").read_text())
        self.key = self._rundir.key
        self.bulletin = Bulletin(client, self.key)
        self.logbook = Logbook(directory, run=directory.name, guard=guard)
        self._helm = Helm(client, self.key)
        self._ends: Callable[[], None] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drive, args=(state,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._ends is None:
            self._over.set()
        self._thread.join(PATIENCE_S)

    def end(self, exit_code: int) -> None:
        """It comes to its end, having said so."""
        self._ends = lambda: self.logbook.close(exit_code)

    def fail(self, error: Exception) -> None:
        """It ends on an error."""

        def ends() -> None:
            raise error

        self._ends = ends

    def vanish(self) -> None:
        """It is gone without a word, as when it is killed."""
        self._over.set()
        self._thread.join(PATIENCE_S)

    def take(self, record: dict[str, Any]) -> None:
        """The learner reports, and it takes that in."""
        self.bulletin.report(record)
        self._rundir.write(record)
        if record["kind"] == "step":
            self.logbook.note(record)

    def _drive(self, state: str) -> None:
        with suppress(Exception), closing(self._rundir), self.logbook.until_end(self._helm):
            self.logbook.enter(state)
            self._keep()

    def _keep(self) -> None:
        while not self._over.is_set():
            self.asked = self.logbook.asked() or self.asked
            if self.asked is not None and self._heeds:
                return self.logbook.close(INTERRUPTED)
            if self._ends is not None:
                return self._ends()
            time.sleep(0.02)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
