"""`areal attach`: what a run shows, followed from anywhere until it ends or one leaves."""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ...broker.bulletin import Bulletin
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable, DeadlineExceeded
from ...broker.helm import Driving
from ..driver.logbook import INTERRUPTED
from ..driver.progress import Progress
from ..records.rundir import METRICS, SUMMARY, read_metrics, read_summary
from ..records.tally import Record, identity
from ..records.words import IMAGES, TEXTS
from .locate import Place
from .look import GUARDED_S, Look, how_it_stands
from .watched import Watched, require_under_way, watch

READ_S = 0.3
LOOK_BACK_S = 30.0
"""Records of so long before are looked at too, as rates are over the last ones."""


def attach(run: str, place: Place) -> int:
    """Follow a run to its end; returns its exit code, or 130 when left by Ctrl-C. Raises ArealError."""
    with watch(run, place) as watched:
        look = watched.look()
        if look.over and look.driving is not None:
            return show_end(watched, look.driving)
        driving = require_under_way(watched)
        try:
            ended = follow(watched, driving)
        except KeyboardInterrupt:
            print(f"\nleft; {driving.run} goes on: areal attach {watched.name}, areal stop {watched.name}")
            return INTERRUPTED
        return exit_code_of(ended)


def exit_code_of(driving: Driving) -> int:
    """That of a driver which has ended."""
    return 1 if driving.exit_code is None else driving.exit_code


def show_end(watched: Watched, driving: Driving) -> int:
    """Say how a run ended, and what it came to; returns its exit code."""
    with _display(driving) as progress:
        progress.show(_event(f"{driving.run}: {how_it_stands(Look(driving, alive=False))}"))
        _conclude(progress, watched.directory)
    return exit_code_of(driving)


def follow(
    watched: Watched,
    driving: Driving,
    *,
    meanwhile: Callable[[], object] = lambda: None,
    deadline: float = math.inf,
) -> Driving:
    """Show a run until its driver, or the one that takes its place, has ended; returns what that said.

    meanwhile: called again and again; BrokerErrors that it raises are no more than a Redis that is not up.
    deadline: by the monotonic clock; past it, DeadlineExceeded.
    Raises ArealError where the driver was killed, or nothing tells of it any more.
    """
    with _display(driving) as progress:
        viewer, told_at = _Viewer(watched, progress), time.monotonic()
        while True:
            look = _look(watched, told_at)
            told_at = told_at if look is None else time.monotonic()
            if look is not None and look.over and look.driving is not None:
                viewer.read(wait_s=0.01)
                _tell_end(progress, look.driving)
                _conclude(progress, watched.directory)
                return look.driving
            if look is not None and look.gone:
                look = _await_next(watched)
            if look is not None and look.driving is not None and look.driving.invocation != driving.invocation:
                driving = look.driving
                progress.show(_event("another driver has taken the place of the one before", "warning"))
                viewer.begin_anew()
            try:
                meanwhile()
            except BrokerError:
                watched.forget_client()
            viewer.read(wait_s=READ_S)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{watched.name} has not ended in time")


def _look(watched: Watched, told_at: float) -> Look | None:
    """How its driver does; None where nothing tells of it, as while a Redis that only knows is away or has come back empty.

    Raises ArealError after GUARDED_S of that.
    """
    late = time.monotonic() - told_at > GUARDED_S
    try:
        look = watched.look()
    except BrokerUnavailable:
        if late:
            raise
        return None
    if look.driving is not None or look.held:
        return look
    if late:
        lost = "its Redis" if watched.directory is None else f"{watched.directory}/"
        raise ArealError(
            f"{watched.name}: {lost} has lost what its driver said there, and for {GUARDED_S:g} s none has said anything "
            "more: the driver is gone too; the same `areal run` resumes the run"
        )
    return None


def _await_next(watched: Watched) -> Look:
    """Wait for the driver that takes the place of one that was killed. Raises ArealError where none does."""
    look = watched.look()
    deadline = time.monotonic() + GUARDED_S
    while look.gone:
        if not look.awaited or time.monotonic() > deadline:
            raise ArealError(f"{watched.name}: {how_it_stands(look)}")
        time.sleep(READ_S)
        look = watched.look()
    return look


class _Viewer:
    """Shows the records of a run as they come, after those that tell how it came to here."""

    def __init__(self, watched: Watched, progress: Progress) -> None:
        self._watched = watched
        self._progress = progress
        self._bulletin: Bulletin | None = None
        self._after = "0"
        self._recalled = False

    def begin_anew(self) -> None:
        """The Redis may be another now."""
        self._bulletin = None
        self._watched.forget_client()

    def read(self, *, wait_s: float) -> None:
        """Show what is new, waiting for it at most so long."""
        began = time.monotonic()
        try:
            if self._bulletin is None:
                self._bulletin = self._begin()
            records, self._after = self._bulletin.read(self._after, timeout_s=wait_s)
        except BrokerUnavailable:
            self._bulletin = None
            self._watched.forget_client()
            time.sleep(max(0.0, wait_s - (time.monotonic() - began)))
            return
        for record in records:
            show_safely(self._progress.show, record)

    def _begin(self) -> Bulletin:
        bulletin = Bulletin(self._watched.client(), self._watched.key)
        if self._recalled:
            return bulletin
        self._after = bulletin.last()
        recent = bulletin.before(self._after, LOOK_BACK_S)
        directory = self._watched.directory
        earlier = read_metrics(directory / METRICS) if directory is not None else []
        for record in merged(earlier, recent):
            show_safely(lambda each: self._progress.recall([each]), record)
        self._recalled = True
        return bulletin


def merged(earlier: Iterable[Record], recent: Iterable[Record]) -> list[Record]:
    """Records of the past, each once, but for its events."""
    known = {identity(record): record for record in earlier}
    told = [record for record in recent if identity(record) not in known]
    return [*known.values(), *(record for record in told if record["kind"] != "event")]


def show_safely(show: Callable[[Record], object], record: Record) -> None:
    """What is not as it should be is not shown: anyone may have written it."""
    try:
        show(record)
    except (KeyError, TypeError, ValueError, OverflowError):
        return


def _display(driving: Driving) -> Progress:
    return Progress(driving.run, words=IMAGES if driving.draws else TEXTS, started_at=driving.started_at)


def _tell_end(progress: Progress, driving: Driving) -> None:
    if driving.error:
        progress.show(_event(how_it_stands(Look(driving, alive=False)), "error"))


def _conclude(progress: Progress, directory: Path | None) -> None:
    """The table of what a run came to, where its directory is within reach."""
    summary = read_summary(directory / SUMMARY) if directory is not None else {}
    if directory is not None and summary.get("steps"):
        progress.finish(summary, directory)


def _event(text: str, level: str = "info") -> Record:
    return {"kind": "event", "time": time.time(), "level": level, "text": text}
