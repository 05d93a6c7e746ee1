"""What a role logs, as events that its driver shows."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_TEXT = 500
MAX_WAITING = 100
WINDOW_S = 10.0
MAX_PER_WINDOW = 10
"""So many records of a role in WINDOW_S are shown; how many were left out is said with the next one after that."""


class Herald(logging.Handler):
    """Tells of records of a level and above, but for those whose words reach the driver anyway (bulletin.TOLD).

    It tells from a thread of its own: whoever logs never waits for Redis.
    """

    def __init__(self, role: str, report: Callable[[dict[str, Any]], None], *, level: str) -> None:
        """
        role: its name.
        report: posts a record (Bulletin.report).
        level: info, warning or error.
        """
        super().__init__(level.upper())
        self._role = role
        self._report = report
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MAX_WAITING)
        self._window_ends = 0.0
        self._shown = self._left_out = 0
        self._thread = threading.Thread(target=self._tell, name="herald", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have it told of, unless there has been much."""
        if getattr(record, "told", False) or threading.current_thread() is self._thread:
            return
        if record.created > self._window_ends:
            self._window_ends, self._shown = record.created + WINDOW_S, 0
        if self._shown >= MAX_PER_WINDOW or self._waiting.full():
            self._left_out += 1
            return
        self._shown += 1
        more = f" ({self._left_out} more are in its log)" if self._left_out else ""
        self._left_out = 0
        said = (_message(record).strip().splitlines() or [""])[0][:MAX_TEXT]
        level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
        text = f"{self._role}: {said}{more}"
        self._waiting.put_nowait({"kind": "event", "time": time.time(), "level": level, "text": text})

    def _tell(self) -> None:
        while True:
            event = self._waiting.get()
            try:
                self._report(event)
            except Exception as error:  # it is in the log of the role all the same
                logging.getLogger(__name__).debug("the driver was not told of a record: %s", error)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit
        return str(record.msg)
