"""The process that forks programs, one at a time. It was forked from pid 1 before that had read any test."""

from __future__ import annotations

import os
import time

from . import program
from .confine import end_with_parent
from .pipes import READ_BYTES, Ended, OutOfTime, drain, frame, read_frame_until, ready, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_SIGKILL = 9
_KILL_TIMEOUT_S = 1.0
_PAUSE_S = 0.001


class Spawner:
    """Pid 1's side: starts programs, asks them, hears them, and ends them. All of it raises Ended or OutOfTime."""

    def __init__(self, sources: Sequence[str], code: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pid: int | None = None
        orders, self._orders = os.pipe()
        self._reports, reports = os.pipe()
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        if os.fork() == 0:
            _spawn(sources, code, (orders, reports, requests, answers))
        for descriptor in (orders, reports, requests, answers):
            os.close(descriptor)
        os.set_blocking(self._requests, False)

    @property
    def running(self) -> bool:
        return self._pid is not None

    def start(self, kind: bytes, deadline: float) -> None:
        """A fresh program, of the kinds in program.py; nothing of the one before it is left in the pipes."""
        self.end()
        drain(self._answers)
        try:
            write_all(self._orders, kind)
        except BrokenPipeError:
            raise Ended from None
        self._pid = self._report(deadline)

    def send(self, body: bytes, deadline: float) -> None:
        """Hands over a message."""
        left = memoryview(frame(body))
        while left:
            try:
                left = left[os.write(self._requests, left) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OutOfTime from None
                time.sleep(_PAUSE_S)

    def receive(self, deadline: float) -> bytes:
        """The next message."""

        def read(size: int) -> bytes:
            if self._answers in ready([self._answers, self._reports], deadline):
                return os.read(self._answers, size)
            self._finish(deadline)
            raise Ended

        return read_frame_until(read, self._max_bytes)

    def output(self, deadline: float) -> tuple[int, bytes]:
        """The exit code of the program, and all that it wrote before; Ended if that is too much."""
        written = bytearray()
        while len(written) <= self._max_bytes:
            if self._answers not in ready([self._answers, self._reports], deadline):
                return self._finish(deadline), bytes(written)
            written += os.read(self._answers, READ_BYTES)
        raise Ended

    def end(self) -> None:
        """Kills the program, if one is running."""
        if self._pid is not None:
            os.kill(self._pid, _SIGKILL)
            self._finish(time.monotonic() + _KILL_TIMEOUT_S)

    def _finish(self, deadline: float) -> int:
        status = self._report(deadline)
        self._pid = None
        return status

    def _report(self, deadline: float) -> int:
        """What the spawner says next, a number a line."""
        line = b""
        while not line.endswith(b"\n"):
            ready([self._reports], deadline)
            part = os.read(self._reports, 1)
            if not part:
                self._pid = None
                raise Ended
            line += part
        return int(line)


def _spawn(sources: Sequence[str], code: bytes, pipes: tuple[int, int, int, int]) -> NoReturn:
    orders, reports, requests, answers = pipes
    try:
        end_with_parent()  # without walls nothing else would end it
        os.dup2(1, 0)  # of the job nothing may be read on
        program.close_all_but(0, 1, 2, *pipes)
        while kind := os.read(orders, 1):
            drain(requests)
            pid = os.fork()
            if pid == 0:
                program.run(kind, sources, (requests, answers), code)
            write_all(reports, b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            write_all(reports, b"%d\n" % os.waitstatus_to_exitcode(status))
    finally:
        os._exit(0)
