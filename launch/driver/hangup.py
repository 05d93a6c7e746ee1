"""A terminal that goes away under a run."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HANGUP = signal.SIGHUP


@contextmanager
def deferring_hangup() -> Iterator[None]:
    """Holds the signal of a lost terminal back until the end, and from all that is started inside for good.

    Ray's processes would die of it at once, before the roles on them had drained. To be used by the main thread; another,
    which does not hold it back, may be who gets it.
    """
    came: list[int] = []
    before, held = signal.getsignal(HANGUP), signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})
    if callable(before):
        signal.signal(HANGUP, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        if callable(before):
            signal.signal(HANGUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if came:
            signal.raise_signal(HANGUP)


@contextmanager
def enduring_hangup() -> Iterator[None]:
    """What cannot be written inside as the terminal is gone is left out."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def leave_terminal(log: Path) -> None:
    """From now on what this process prints goes to the end of that file, and it reads nothing."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor, standard in ((nowhere, 0), (file, 1), (file, 2)):
        os.dup2(descriptor, standard)
    os.close(nowhere)
    os.close(file)
