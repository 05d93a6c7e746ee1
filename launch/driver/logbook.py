"""What the driver of a run says of itself, from its start to its end: in the run directory, and on the run's Redis.

driver.json   how the newest driver does, or how it ended; one that was killed never says so, but it holds the lock of
              the directory no more
helm          the same on the run's Redis, said again every second (broker/helm.py), for whoever has no such directory
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ...broker.errors import BrokerError, ConfigError
from ...broker.helm import DONE, FAILED, RUNNING, STARTING, STOPPED, Driving, Helm
from ..records.rundir import replace as replace_file
from ..records.tally import Record, number

logger = logging.getLogger(__name__)

DRIVER = "driver.json"
TELL_EVERY_S = 1.0
JOIN_S = 5.0
INTERRUPTED = 130


def read_driving(directory: Path) -> Driving | None:
    """What the newest driver of a run directory has said of itself; None if there was none."""
    try:
        return Driving.of_json((directory / DRIVER).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def say_killed(directory: Path, error: str) -> None:
    """Note in place of a driver that was killed that there will be no other."""
    driving = read_driving(directory)
    if driving is not None and not driving.ended:
        _write(directory, replace(driving, state=FAILED, exit_code=1, error=error))


class Logbook:
    """Kept by a driver. Where it cannot be written, the run goes on all the same."""

    def __init__(self, directory: Path, *, run: str, draws: bool = False, guard: int | None = None) -> None:
        self._directory = directory
        self._helm: Helm | None = None
        self._telling = threading.Lock()  # so that no older word is heard after the last one
        self._driving = Driving(
            invocation=uuid.uuid4().hex,
            run=run,
            state=STARTING,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=time.time(),
            directory=str(directory),
            draws=draws,
            guard=guard,
        )
        self._write()

    @property
    def invocation(self) -> str:
        """The name of this driver, which no other has."""
        return self._driving.invocation

    @contextmanager
    def until_end(self, helm: Helm | None = None) -> Iterator[None]:
        """Notes how what happens inside ends, if it ends on an exception; and says all the while on the helm how it does."""
        over = threading.Event()
        thread = threading.Thread(target=self._tell_until, args=(over,), name="logbook", daemon=True)
        self._helm = helm
        try:
            if helm is not None:
                thread.start()
            yield
        except KeyboardInterrupt:
            self.end(STOPPED, INTERRUPTED)
            raise
        except BaseException as error:
            told = str(error) if isinstance(error, Exception) else type(error).__name__
            self.end(FAILED, 2 if isinstance(error, ConfigError) else 1, told or type(error).__name__)
            raise
        finally:
            over.set()
            if helm is not None:
                thread.join(JOIN_S)
            self._helm = None

    def begin(self) -> None:
        """The roles are at work, if nobody has asked them to drain yet."""
        if self._driving.state == STARTING:
            self.enter(RUNNING)

    def enter(self, state: str) -> None:
        """How the run does now: one of UNDER_WAY."""
        if state != self._driving.state:
            self._driving = replace(self._driving, state=state)
            self._write()

    def note(self, step: Record) -> None:
        """The record of a step that was taken."""
        self._driving = replace(
            self._driving,
            step=int(step["step"]),
            steps=int(step["steps"]),
            reward=number(step, "reward_mean"),
            staleness=number(step, "staleness_mean"),
        )

    def end(self, state: str, exit_code: int, error: str = "") -> None:
        """How it ended, one of ENDED; said once."""
        if self._driving.ended:
            return
        self._driving = replace(self._driving, state=state, exit_code=exit_code, error=error)
        self._write()
        self._tell()

    def close(self, exit_code: int, error: str = "") -> None:
        """The run has come to its end, or has stopped as it was asked to; `error` where it did not drain."""
        self.end(DONE if exit_code == 0 else STOPPED, exit_code, error)

    def asked(self) -> str | None:
        """What is asked of this driver, one of ASKS. Raises BrokerError."""
        return None if self._helm is None else self._helm.asked(self.invocation)

    def _tell_until(self, over: threading.Event) -> None:
        """From a thread, as starting Ray takes its time."""
        while not over.is_set():
            self._tell()
            over.wait(TELL_EVERY_S)

    def _tell(self) -> None:
        helm = self._helm
        if helm is not None:
            with suppress(BrokerError), self._telling:
                helm.tell(self._driving)

    def _write(self) -> None:
        _write(self._directory, self._driving)


def _write(directory: Path, driving: Driving) -> None:
    try:
        replace_file(directory / DRIVER, driving.to_json() + "\n")
    except OSError as error:  # a full disk, say
        logger.warning("%s cannot be written (%s)", directory / DRIVER, error)
