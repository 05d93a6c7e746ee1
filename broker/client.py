"""A connection to Redis that backs off, gives up at its deadline, and says whom it waited for."""

import functools
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline as RedisPipeline
from redis.connection import Connection, ConnectionPool, HiredisRespSerializer, PythonRespSerializer
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool
from redis.utils import HIREDIS_AVAILABLE

from .address import Address
from .errors import BrokerError, BrokerUnavailable
from .refusal import OLDEST, OLDEST_VERSION, explain

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.02, 1.0
CONNECT_TIMEOUT_S = 5.0
SENTINEL_TIMEOUT_S = 1.0
HEALTH_CHECK_S = 15
LONGEST_BLOCK_S = 1.0
"""No call blocks in the server for longer: whoever waits longer asks again, and notices in between."""

LARGE_BYTES = 32 * 2**10
SEND_BYTES = 6000


class Patience:
    """Tries a call again until `timeout_s` after its first try began, with jittered back-off. Thread-safe.

    A try that hears nothing for half of that time is given up, as its connection may be lost without a word; so what is
    called may happen twice.
    """

    def __init__(self, where: str, timeout_s: float, pool: ConnectionPool) -> None:
        self.where = where
        self._timeout_s = timeout_s
        self._pool = pool

    def call(self, what: str, do: Callable[[], T], *, once: bool = False) -> T:
        """What `do` returns. Raises BrokerUnavailable at the deadline, BrokerError at once for what will not pass."""
        if _try.ends_at is not None:  # a part of a call, as the scripts that a pipeline loads
            return do()
        deadline = time.monotonic() + self._timeout_s
        backoff = ExponentialWithJitterBackoff(base=FIRST_BACKOFF_S, cap=MAX_BACKOFF_S)
        for failures in itertools.count(1):
            _try.ends_at = min(deadline, time.monotonic() + self._timeout_s / 2)
            try:
                return do()
            except redis.RedisError as error:
                refusal = explain(error)
                if refusal is None:
                    raise
                left_s = deadline - time.monotonic()
                if not refusal.passes:  # the server's own words may repeat the user's name, or a password
                    raise BrokerError(f"{self.where} refused {what}: {refusal.text}") from None
                if left_s <= 0 or once:
                    did = "refused" if isinstance(error, redis.ResponseError) else "did not answer"
                    raise BrokerUnavailable(
                        f"{self.where} {did} {what} within {self._timeout_s:g} s (broker.timeout_s): {refusal.text}"
                    ) from error
            finally:
                _try.ends_at = None
            if refusal.elsewhere:
                self._pool.disconnect(inuse_connections=False)
            time.sleep(min(backoff.compute(failures), left_s))
        raise AssertionError


class _Try(threading.local):
    """The try under way in this thread, whose connections must not wait beyond its end."""

    ends_at: float | None = None

    def left_s(self) -> float | None:
        """How long a read or a write may take; a server that was told to block answers after its block."""
        return None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic()) + LONGEST_BLOCK_S


_try = _Try()


def _on_time(kind: Any) -> type[Connection]:
    """redis-py's class of connections, whose waits end with the try under way."""

    class OnTime(kind):  # type: ignore[misc]
        port = 0  # redis-py reports it with an error, and a Unix socket has none

        def connect_check_health(self, *args: Any, **options: Any) -> None:
            left_s = _try.left_s()
            if left_s is not None:
                self.socket_timeout, self.socket_connect_timeout = left_s, min(left_s, CONNECT_TIMEOUT_S)
            super().connect_check_health(*args, **options)

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            left_s = _try.left_s()
            if left_s is not None and self._sock is not None:
                self._sock.settimeout(left_s)
            super().send_packed_command(command, check_health)

    return OnTime


class Packer:
    """Writes commands: by hiredis, but for large values, which it would copy, by redis-py's own serializer.

    In a pipeline, values of 256 KB and of 4 MB (images, chunks of weights) are written about twice as fast that way, and
    commands of 1 KB a fifth faster by hiredis. Replies are parsed by hiredis wherever it is installed.
    """

    def __init__(self, encode: Callable[[Any], Any]) -> None:
        self._large = PythonRespSerializer(SEND_BYTES, encode)
        self._small: Any = HiredisRespSerializer() if HIREDIS_AVAILABLE else self._large

    def pack(self, *args: Any) -> list[bytes]:
        large = any(len(arg) > LARGE_BYTES for arg in args if isinstance(arg, (bytes, bytearray, memoryview)))
        packed: list[bytes] = (self._large if large else self._small).pack(*args)
        return packed


class Client(redis.Redis):
    """redis-py's client, whose failures become BrokerUnavailable and BrokerError. Thread-safe."""

    patience: Patience

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply to one command; see Patience."""
        command: Any = super().execute_command
        return self.patience.call(str(args[0]), lambda: command(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> "Pipeline":
        """Several commands at once, as one transaction or not, with the same patience."""
        pipeline = Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.patience = self.patience
        return pipeline


class Pipeline(RedisPipeline):
    """redis-py's pipeline, tried again as a whole (and its scripts loaded again) until the deadline; see Patience.

    What is not a transaction may have been carried out in part when it is tried again. A pipeline that watches keys is
    tried once: if its connection breaks, redis-py raises WatchError.
    """

    patience: Patience

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The replies to all that was called since the last time."""
        execute, watching = super().execute, self.watching
        stack, scripts, explicit = self.command_stack, self.scripts, self.explicit_transaction

        def attempt() -> list[Any]:
            self.command_stack, self.scripts, self.explicit_transaction = stack, set(scripts), explicit
            try:
                return execute(raise_on_error)
            except redis.RedisError:
                self.reset()  # the connection goes back to the pool, which alone asks sentinels for the master
                raise

        names = ", ".join(dict.fromkeys(str(args[0]) for args, _ in stack))
        return self.patience.call(f"a pipeline of {len(stack)} ({names})", attempt, once=watching)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply to a command before the transaction begins, as WATCH."""
        command: Any = super().immediate_execute_command
        return self.patience.call(str(args[0]), lambda: command(*args, **options), once=self.watching)


def connect(url: str, *, timeout_s: float = 30.0) -> Client:
    """A client of the server at `url`, tried until `timeout_s`. Thread-safe.

    A server that goes away later is waited for just as long. Raises ConfigError for a URL that is none, BrokerError for
    a server that cannot be used and BrokerUnavailable for one that does not answer; none of them shows a user or a
    password. The rights that an ACL user needs are in docs/protocol.md.
    """
    client = _client(Address.of(url), timeout_s)
    client.ping()
    _look_over(client)
    return client


def is_open_to_all(url: str, *, timeout_s: float) -> bool:
    """Whether the server at `url` answers one who gives neither user nor password. Raises ConfigError."""
    address = Address.of(url)
    options = {name: value for name, value in address.options.items() if name not in ("username", "password")}
    with closing(_client(replace(address, options=options), timeout_s)) as stranger:
        try:
            return bool(stranger.ping())
        except (BrokerError, redis.RedisError):
            return False


def _client(address: Address, timeout_s: float) -> Client:
    pool = _pool(address)
    client = Client.from_pool(pool)
    assert isinstance(client, Client)
    client.patience = Patience(f"redis at {address.shown}", timeout_s, pool)
    return client


def _pool(address: Address) -> ConnectionPool:
    options = address.options | {
        "retry": Retry(NoBackoff(), 0),  # Patience tries again
        "health_check_interval": HEALTH_CHECK_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }
    options["connection_class"] = _on_time(options.get("connection_class", Connection))
    if address.sentinels:
        timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
        each = address.sentinel_options | timeouts | {"retry": Retry(NoBackoff(), 0)}
        pool: ConnectionPool = SentinelConnectionPool(
            address.service, Sentinel(address.sentinels, sentinel_kwargs=each), **options
        )
    else:
        pool = ConnectionPool(**options)
    pool.connection_kwargs["command_packer"] = Packer(pool.get_encoder().encode)
    return pool


def _look_over(client: Client) -> None:
    """Raises BrokerError for a server that is too old; warns of one that may lose what it holds."""
    try:
        info: dict[str, Any] = client.info()
    except BrokerUnavailable:
        raise
    except BrokerError:  # not every user may ask
        return
    where, version = client.patience.where, str(info.get("redis_version", OLDEST))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_VERSION:
        raise BrokerError(f"{where} is Redis {version}; {OLDEST} or newer is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _warn_once(f"{where} evicts keys when it is full (maxmemory-policy {policy}): set it to noeviction")
    if not info.get("aof_enabled", 1):
        _warn_once(f"{where} keeps no append-only file: set appendonly to yes, or a restart may lose groups")


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


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
