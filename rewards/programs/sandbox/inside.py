"""Pid 1 of a sandbox, from its first line to its last: see __init__.py.

It is given by fd 0 what it is to do, and says by fd 1 what came of it: ("ready",), then for each test (place, outcome), and
("end",); or ("broken", why) if there is no sandbox, or ("unsound", why) of tests that cannot be had.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enumerations of signal
import fcntl
import os
import select
import sys
import time

from .confine import Limits, become_nobody, drop_privileges, end_with_parent, limit_resources
from .examiner import Unsound, examine
from .pipes import OutOfTime, frame, read_frame, write_all
from .spawner import Spawner
from .values import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIGIO = 29
NAMESPACES, BUBBLEWRAP, NONE = "namespaces", "bubblewrap", "none"
_FIRST_WITH_OWN_COUNT = (5, 14)  # of Linux: processes are counted for each namespace of users


def main() -> None:
    """One completion."""
    answers = os.dup(1)

    def say(*said: Any) -> None:
        write_all(answers, frame(dumps(said)))

    try:
        end_with_parent()
        walls, user, limits, code, shared, packages = loads(read_frame(0))
        confined(walls, user, Limits(*limits), shared)
        sys.path += packages
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        spawner = Spawner(loads(read_frame(0)), code, Limits(*limits).output_kib * 1024)
        style, tests = loads(read_frame(0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    except (OSError, ValueError, EOFError) as error:
        return say("broken", f"{error}")
    _end_without_reader(answers)
    say("ready")
    try:
        for place, outcome in enumerate(examine(spawner, style, tests, time.monotonic() + limits[0])):
            say(place, outcome)
    except OutOfTime:
        pass
    except Unsound as error:
        return say("unsound", f"{error}")
    say("end")


def _end_without_reader(pipe: int) -> None:
    """Has this process end when nobody can read the pipe any more: that its parent ends it, bubblewrap's may not."""

    def look(*_: object) -> None:
        found = select.poll()  # its own: a signal may come while the last one is looked into
        found.register(pipe, 0)  # and errors, as always
        if found.poll(0):
            os._exit(0)

    _signal.signal(_SIGIO, look)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    look()


def confined(walls: str, user: int, limits: Limits, shared: list[str]) -> None:
    """Puts up the walls that are not there yet, and gives up what it takes to."""
    counts_threads = walls == BUBBLEWRAP and (os.geteuid() == 0 or _release() >= _FIRST_WITH_OWN_COUNT)
    if walls != BUBBLEWRAP:  # there is no /proc behind those
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if walls == NAMESPACES:
        from . import namespaces

        of_users = namespaces.unshare(user)
        counts_threads = not of_users or _release() >= _FIRST_WITH_OWN_COUNT
        namespaces.fork_first()
        namespaces.enter_root(shared, limits.disk_mib)
    if os.geteuid() == 0 and walls != NONE:
        become_nobody(user)
    drop_privileges()
    if walls != NONE:
        end_with_parent()  # a change of users has undone it
    limit_resources(limits, counts_threads=counts_threads)


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
