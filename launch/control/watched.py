"""A run as others see it who did not start it: from its run directory, from its Redis, or from both.

Nothing is started for a look: a run's own Redis is up only while its driver is.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...broker.client import Client, connect
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable
from ...broker.helm import STOPPED, Driving, Helm
from ...broker.server import find_live
from ..driver.logbook import read_driving
from ..records.rundir import REDIS, as_argument, holder, is_held, read_key
from .locate import ANSWER_S, Place, open_run, require_directory, shared_broker

SILENT_AFTER_S = 15.0
"""A driver on another machine that has not been heard for so long is gone."""

GUARDED_S = 90.0
"""How long a driver that was killed may take to be replaced, where it is guarded."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a run's newest driver.

    alive: whether it is there, whatever it has said of its end.
    held: whether anyone holds the run directory: this driver, or the next one, which has said nothing yet.
    """

    driving: Driving | None
    alive: bool
    held: bool = False

    @property
    def gone(self) -> bool:
        """Whether it has ended without a word, and no other is about to begin."""
        return self.driving is not None and not self.alive and not self.held and not self.driving.ended

    @property
    def over(self) -> bool:
        """Whether it has ended as it said."""
        return self.driving is not None and not self.alive and self.driving.ended


class Watched:
    """A run that may be under way."""

    def __init__(self, name: str, key: str | None, directory: Path | None, client: Client | None = None) -> None:
        """
        name: what it is called on the command line.
        key: its name in Redis; that of a directory is looked up when there is one.
        client: the Redis that was named; without it, that of the directory.
        """
        self.name = name
        self.directory = directory
        self._key = key
        self._client = client
        self._is_named = client is not None

    def look(self) -> Look:
        """How its driver does. Raises BrokerUnavailable if only Redis knows, and does not answer."""
        if self.directory is not None:
            return look_into(self.directory)
        return heard_on(self.helm())

    def client(self) -> Client:
        """Its Redis. Raises BrokerUnavailable while that is not up."""
        if self._client is None:
            assert self.directory is not None
            url = shared_broker(self.directory) or find_live(self.directory / REDIS)
            if url is None:
                raise BrokerUnavailable(f"the Redis of {self.name} is not up")
            self._client = connect(url, timeout_s=ANSWER_S)
        return self._client

    def helm(self) -> Helm:
        """Raises BrokerUnavailable, as `client` does."""
        return Helm(self.client(), self.key)

    @property
    def key(self) -> str:
        """Its name in Redis. Raises ArealError where the directory has none yet."""
        if self._key is None and self.directory is not None:
            self._key = read_key(self.directory)
        if self._key is None:
            raise BrokerUnavailable(f"{self.name} has no key yet: it has just been started")
        return self._key

    def forget_client(self) -> None:
        """Look for its Redis anew: that of the next driver has another address."""
        if not self._is_named:
            self.close()

    def close(self) -> None:
        if self._client is not None and not self._is_named:
            with suppress(BrokerError):
                self._client.close()
            self._client = None


@contextmanager
def watch(run: str, place: Place) -> Iterator[Watched]:
    """The run that RUN names, as in locate.open_run. Raises ArealError, naming what there is instead."""
    if place.broker is not None:
        with open_run(run, place) as located:
            yield Watched(located.name, located.key, located.directory, located.client)
        return
    directory = require_directory(run, place.directory)
    watched = Watched(as_argument(directory), None, directory)
    try:
        yield watched
    finally:
        watched.close()


def look_into(directory: Path) -> Look:
    """How the driver of a run directory does: one that is there holds the lock, and has written its name on it."""
    held, driving = is_held(directory), read_driving(directory)
    return Look(driving, held and driving is not None and holder(directory) == _name(driving), held)


def heard_on(helm: Helm) -> Look:
    """How the driver does that was last heard there. Raises BrokerUnavailable."""
    heard = helm.heard()
    if heard is None:
        return Look(None, alive=False)
    driving, ago_s = heard
    return Look(driving, alive=not driving.ended and ago_s < SILENT_AFTER_S)


def require_under_way(watched: Watched) -> Driving:
    """What its driver says, which may be about to begin. Raises ArealError if it has none."""
    deadline = time.monotonic() + GUARDED_S
    while True:
        look = watched.look()
        if look.alive and look.driving is not None and not look.driving.ended:
            return look.driving
        coming = look.held or (look.gone and look.driving is not None and look.driving.guard is not None)
        if not coming or time.monotonic() > deadline:
            raise ArealError(f"{watched.name} is not under way: {how_it_stands(look)}")
        time.sleep(0.2)


def how_it_stands(look: Look) -> str:
    """In words, how a run's driver does or how it ended."""
    driving = look.driving
    if driving is None:
        return "its run directory is in use" if look.held else "no driver of it is known"
    who = _name(driving)
    if look.gone:
        return f"its driver ({who}) was killed; the same `areal run` resumes it"
    if not driving.ended:
        return f"it is {driving.state} ({who})"
    if driving.error:
        return f"it has failed (exit code {driving.exit_code}): {driving.error}"
    return "it was stopped; the same `areal run` resumes it" if driving.state == STOPPED else "it is done"


def is_here(driving: Driving) -> bool:
    """Whether that driver is, or was, a process of this machine."""
    return driving.host == socket.gethostname()


def _name(driving: Driving) -> str:
    """As rundir.hold writes it on the lock."""
    return f"process {driving.pid} on {driving.host}"
