"""`areal stop`: asks the driver of a run to drain, save and leave, from anywhere, and waits until it has."""

import contextlib
import os
import signal
import time

from ...broker.errors import ArealError, DeadlineExceeded
from ...broker.helm import FAILED, STOP, STOP_NOW, STOPPED, Driving
from .attach import exit_code_of, follow
from .locate import Place
from .look import how_it_stands, is_here
from .watched import Watched, require_under_way, watch

NOW_S = 20.0
"""How long a driver may take to stop at once before it is killed."""


def stop(run: str, place: Place, *, now: bool, timeout_s: float) -> int:
    """Stop a run, showing how it ends; returns 0 once it has ended, as it was asked to or because it was done.

    now: at once, without a checkpoint; a driver of this machine that does not heed is killed.
    Raises ArealError where it is not under way or did not end as it was asked to, and DeadlineExceeded past `timeout_s`.
    """
    with watch(run, place) as watched:
        driving = require_under_way(watched)
        order = _Order(watched, STOP_NOW if now else STOP, driving)
        deadline = time.monotonic() + (min(NOW_S, timeout_s) if now else timeout_s)
        try:
            ended = follow(watched, driving, meanwhile=order.repeat, deadline=deadline)
        except KeyboardInterrupt:
            print(f"\nleft; {watched.name} has been asked to stop all the same")
            return 130
        except DeadlineExceeded as error:
            if not now:
                raise DeadlineExceeded(
                    f"{watched.name} was asked to stop and has not ended within {timeout_s:g} s (--timeout): "
                    "wait longer, or stop it at once with --now"
                ) from error
            return _kill(watched)
        if ended.state == FAILED or (ended.error and not now):
            why = f"exit code {exit_code_of(ended)}" + (f": {ended.error}" if ended.state == STOPPED else "")
            raise ArealError(f"{watched.name} ended, but not as it was asked to ({why})")
        return 0


class _Order:
    """What the driver is asked for, and whoever takes its place if it dies meanwhile."""

    def __init__(self, watched: Watched, what: str, driving: Driving) -> None:
        self._watched = watched
        self._what = what
        self._driving = driving

    def repeat(self) -> None:
        """Ask again, as Redis may have lost it. Raises BrokerError while it is not up."""
        look = self._watched.look()
        if look.alive and look.driving is not None:
            self._driving = look.driving
        self._watched.helm().ask(self._what, self._driving.invocation)


def _kill(watched: Watched) -> int:
    """End a driver that does not heed, and with it all that it started. Raises ArealError if it is not here."""
    look = watched.look()
    if look.driving is None or not look.alive:
        return 0
    if watched.directory is None or not is_here(look.driving):
        raise DeadlineExceeded(
            f"{watched.name} does not heed, and {how_it_stands(look)}: kill that process on that machine"
        )
    if look.driving.guard is not None and look.driving.guard == _parent(look.driving.pid):
        _end(look.driving.guard)  # first, or it would start another
    _end(look.driving.pid)
    deadline = time.monotonic() + NOW_S
    while watched.look().alive:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {look.driving.pid} was killed and is still there")
        time.sleep(0.1)
    print(f"{watched.name} did not heed and was killed; all that it started ends with it")
    return 0


def _parent(pid: int) -> int | None:
    import psutil

    try:
        parent: int = psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None
    return parent


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
