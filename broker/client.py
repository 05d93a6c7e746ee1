"""A connection to Redis that backs off, gives up at its deadline, and says whom it waited for."""

import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from .errors import BrokerUnavailable

T = TypeVar("T")

MAX_BACKOFF_S = 1.0
LONGEST_BLOCK_S = 1.0
"""No call blocks in the server for longer: whoever waits longer asks again, and notices in between."""


class Patience(Retry):
    """Tries again until `timeout_s` after the first try began; what is tried within a try shares its deadline."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(ExponentialWithJitterBackoff(base=0.02, cap=MAX_BACKOFF_S), -1)
        self._timeout_s = timeout_s
        self._deadline: float | None = None

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """What `do` returns; raises its error where it is no connection's, or came past the deadline."""
        outermost = self._deadline is None
        deadline = self._deadline = self._deadline or time.monotonic() + self._timeout_s

        def failed(error: Exception, *count: int) -> None:
            fail(error, *count)
            if time.monotonic() >= deadline or isinstance(error, redis.AuthenticationError):
                raise error

        try:
            return super().call_with_retry(do, failed, is_retryable, with_failure_count)
        finally:
            if outermost:
                self._deadline = None


class Client(redis.Redis):
    """redis-py's client, whose connection errors become BrokerUnavailable."""

    where: str = "redis"

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise BrokerUnavailable(f"{self.where} did not answer {args[0]}: {error}") from error


def connect(url: str, *, timeout_s: float = 30.0) -> Client:
    """A client of the server at `url`, tried until `timeout_s`; raises BrokerUnavailable, never showing a password.

    A server that goes away later is waited for just as long, with jittered back-off between the tries.
    """
    try:
        client: Any = Client.from_url(
            url,
            socket_connect_timeout=min(timeout_s, 5.0),
            socket_timeout=timeout_s + LONGEST_BLOCK_S,
            retry=Patience(timeout_s),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            health_check_interval=15,
        )
    except ValueError:
        raise BrokerUnavailable("broker.url is not of the form redis://[user:password@]host:port/0") from None
    client.where = "redis at " + redacted(url)
    client.ping()
    connected: Client = client
    return connected


def redacted(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname or parts.path}:{parts.port or 6379}"


def stream_entries(found: Any) -> list[tuple[str, dict[bytes, bytes]]]:
    """The entries of the one stream read, from either reply format of redis-py (RESP2 lists, RESP3 maps)."""
    if not found:
        return []
    batches = found.values() if isinstance(found, dict) else [batch for _, batch in found]
    return [
        (entry.decode(), fields)
        for batch in batches
        for entry, fields in (batch[0] if batch and isinstance(batch[0], list) else batch)
        if fields
    ]
