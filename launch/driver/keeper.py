"""The Redis of a run, kept up while it is the run's own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ...broker.address import with_credentials
from ...broker.config import BrokerConfig
from ...broker.errors import BrokerUnavailable
from ...broker.server import EmbeddedRedis

T = TypeVar("T")


class RedisKeeper:
    """Starts a server that lives as long as the run, unless the configuration names one."""

    def __init__(self, config: BrokerConfig, directory: Path, say: Callable[[str, str], None]) -> None:
        """
        directory: of a server of the run's own.
        say: told (text, level) of what a person should know.
        """
        self._config = config
        self._directory = directory
        self._say = say
        self._server: EmbeddedRedis | None = None

    @contextmanager
    def url(self) -> Iterator[str]:
        """Where it is, with the credentials that roles on other nodes need."""
        if self._config.url is not None:
            yield with_credentials(self._config.url)
            return
        self._server = EmbeddedRedis(self._directory, start_timeout_s=self._config.timeout_s)
        self._say("starting redis", "info")
        try:
            yield self._server.start()
        finally:
            self._server.stop()

    def patiently(self, call: Callable[[], T]) -> T:
        """What a call to Redis returns; a server of the run's own that has died is started again, any other waited for.

        Raises BrokerUnavailable when it stays away for broker.timeout_s, after which the roles give up too.
        """
        deadline = time.monotonic() + self._config.timeout_s
        while True:
            if self._server is not None and not self._server.alive:
                self._say("redis died; starting it again on its append-only file", "warning")
                self._server.start()
            try:
                return call()
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
