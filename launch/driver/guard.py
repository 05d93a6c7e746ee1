"""Starts the driver of a run in the background, and another in its place when it is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ...broker.errors import ArealError
from ..cluster.restarts import STEADY_S, Restarts
from ..records.rundir import DRIVER_LOG
from .hangup import leave_terminal
from .logbook import INTERRUPTED, read_driving, say_killed

OWN = (0, 2, INTERRUPTED)
"""Exit codes that nobody but a driver itself ends with."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Guard:
    """Stays beside a driver until that ends by itself; what it is told by signals it passes on."""

    def __init__(
        self,
        driver: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        *,
        handed: bytes,
        max_restarts: int,
    ) -> None:
        """
        driver: the command.
        directory: the run directory.
        handed: what each driver reads from its standard input.
        max_restarts: how often in a row the driver is started again.
        """
        self._driver = driver
        self._environment = environment
        self._directory = directory
        self._handed = handed
        self._restarts = Restarts(max_restarts)
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def run(self) -> int:
        """Until a driver ends by itself; returns its exit code. Raises ArealError where they are killed again and again."""
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        while True:
            began = time.monotonic()
            self._process = subprocess.Popen(self._driver, stdin=subprocess.PIPE, env=self._environment)
            leave_terminal(Path(os.devnull))  # which the driver holds now, until it has its log
            hand(self._process, self._handed)
            exit_code = self._process.wait()
            if self._ended_by_itself(self._process.pid, exit_code):
                return exit_code
            self._restarts.note(steady=time.monotonic() - began > STEADY_S)
            killer = signal.Signals(-exit_code).name if exit_code < 0 else f"an exit with code {exit_code}, not its own"
            self._note(f"the driver was killed by {killer}")
            if not self._restarts.exhausted and not self._told_to_end:
                time.sleep(self._restarts.delay_s)
            if self._restarts.exhausted or self._told_to_end:
                self._give_up(killer)

    def _give_up(self, killer: str) -> NoReturn:
        deaths = self._restarts.deaths
        times = f" {deaths} times in a row" if deaths > 1 else ""
        text = f"the driver was killed{times}, the last time by {killer}; the same `areal run` resumes it"
        say_killed(self._directory, text)
        raise ArealError(text)

    def _ended_by_itself(self, pid: int, exit_code: int) -> bool:
        """Whether that driver has said that it ended, or had said nothing at all; Ray ends one with 1 when it loses its head."""
        if exit_code < 0 or exit_code in OWN:
            return exit_code >= 0
        driving = read_driving(self._directory)
        return driving is None or (driving.pid, driving.guard) != (pid, os.getpid()) or driving.ended

    def _note(self, text: str) -> None:
        """In the driver's log, where also goes what the next driver says before it has opened that."""
        log = self._directory / "logs" / DRIVER_LOG
        if log.parent.is_dir():
            leave_terminal(log)
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}", flush=True)

    def _pass_on(self, number: int, frame: object) -> None:
        self._told_to_end = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def hand(process: "subprocess.Popen[bytes]", handed: bytes) -> None:
    """Write what a process reads from its standard input, to the end, if it still does."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(handed)
