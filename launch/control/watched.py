"""A run as others see it who did not start it: from its run directory, from its Redis, or from both.

Nothing is started for a look: a run's own Redis is up only while its driver is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...broker.client import Client, connect
from ...broker.errors import ArealError, BrokerError, BrokerUnavailable
from ...broker.helm import Driving, Helm
from ...broker.server import find_live
from ..records.rundir import REDIS, as_argument, read_key
from .locate import ANSWER_S, Place, open_run, require_directory, shared_broker
from .look import GUARDED_S, Look, heard_on, how_it_stands, look_into


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


def require_under_way(watched: Watched) -> Driving:
    """What its driver says, which may be about to begin. Raises ArealError if it has none."""
    deadline = time.monotonic() + GUARDED_S
    while True:
        look = watched.look()
        if look.alive and look.driving is not None and not look.driving.ended:
            return look.driving
        if not look.coming or time.monotonic() > deadline:
            raise ArealError(f"{watched.name} is not under way: {how_it_stands(look)}")
        time.sleep(0.2)
