"""A Redis that a configuration names: whether it can be used, and keeps what it holds."""

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from statistics import median
from typing import Any

from ...broker.address import Address
from ...broker.client import Client, connect
from ...broker.errors import BrokerError
from ..config import RunConfig
from ..units import gib
from .exposure import look_at_exposure
from .finding import Finding, ok, problem, warning

ANSWER_S = 4.0
PINGS = 15
SLOW_MS = 10.0
SKEW_S = 1.0
"""Clocks that differ by more make times in the records hard to compare."""


def look_at_redis(config: RunConfig, url: str, wanted: float) -> Iterator[Finding]:
    """All of it; `wanted` is what the run will put there at most, in bytes, about."""
    address = Address.of(url)
    with closing(connect(url, timeout_s=ANSWER_S)) as client:
        info = _info(client)
        yield _reached(client, address, info)
        yield from _role(info)
        yield from _persistence(client, info)
        yield from _memory(info, wanted)
        yield _rights(client, config.run)
        yield _clock(client)
    yield from look_at_exposure(url)


def _reached(client: Client, address: Address, info: dict[str, Any]) -> Finding:
    taken = []
    for _ in range(PINGS):
        began = time.perf_counter()
        client.ping()
        taken.append(1000 * (time.perf_counter() - began))
    seen = f"{info.get('redis_version', 'of a version that this user may not ask for')} at {address.shown}, a round trip takes {median(taken):.1f} ms"
    if median(taken) > SLOW_MS:
        return warning("redis", seen, "put Redis nearer to the workers: each group takes a few of these")
    return ok("redis", seen)


def _role(info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield problem(
            "redis role", "a replica, which takes no writes", "name its master in broker.url, or its sentinels"
        )


def _persistence(client: Client, info: dict[str, Any]) -> Iterator[Finding]:
    """The append-only file, without which a restart loses groups; and whether it can be written."""
    check = "redis persistence"
    if "aof_enabled" not in info:
        yield warning(check, "this user may not ask for it (INFO)", "see that appendonly is yes, or permit +info")
        return
    if not info["aof_enabled"]:
        yield problem(
            check, "there is no append-only file, so a restart loses groups", "redis-cli config set appendonly yes"
        )
        return
    if info.get("aof_last_write_status") == "err":
        yield problem(check, "the append-only file cannot be written", "see its log, and the space left on its disk")
        return
    fsync = _setting(client, "appendfsync")
    if fsync == "no":
        seen = "the append-only file is never flushed, so a power cut loses groups"
        yield warning(check, seen, "redis-cli config set appendfsync everysec")
        return
    yield ok(check, f"append-only file{f', flushed {fsync}' if fsync else ''}")


def _memory(info: dict[str, Any], wanted: float) -> Iterator[Finding]:
    """What becomes of keys when it is full, and whether what the run puts there fits."""
    policy, most = info.get("maxmemory_policy"), int(info.get("maxmemory", 0))
    if policy is None:
        return
    if policy != "noeviction":
        remedy = "redis-cli config set maxmemory-policy noeviction"
        yield problem(
            "redis eviction", f"maxmemory-policy is {policy}: keys go when it is full, and groups with them", remedy
        )
    else:
        yield ok("redis eviction", "noeviction: nothing goes when it is full")
    used = int(info.get("used_memory", 0))
    limit, name = (most, "maxmemory") if most else (int(info.get("total_system_memory", 0)), "its machine's memory")
    seen = f"{gib(used)} of {gib(limit)} ({name}) used, about {gib(wanted)} wanted"
    if limit and wanted + used > limit:
        remedy = "raise maxmemory, lower checkpoint.every_steps, or have weights travel through a shared directory or directly (broker.weights)"
        yield problem("redis memory", seen, remedy)
    else:
        yield ok("redis memory", seen)


def _rights(client: Client, run: str) -> Finding:
    """Whether this user may do what a run does: write, run scripts, read the order of time."""
    key = f"areal:{{doctor-{run}-{uuid.uuid4().hex[:8]}}}"
    script = "redis.call('SET', KEYS[1], '1', 'EX', 60) return redis.call('XADD', KEYS[2], '*', 'a', '1')"
    try:
        client.eval(script, 2, f"{key}:key", f"{key}:stream")
        client.unlink(f"{key}:key", f"{key}:stream")
    except BrokerError as error:
        return problem("redis rights", str(error), "give the user the rights that docs/protocol.md names (ACL SETUSER)")
    return ok("redis rights", "keys, streams and scripts")


def _clock(client: Client) -> Finding:
    skew_s, error_s = skew(client)
    seen = (
        f"its clock is {abs(skew_s):.2f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's (± {error_s:.3f} s)"
    )
    if abs(skew_s) - error_s > SKEW_S:
        return warning("redis clock", seen, "set both by NTP: times in the records will not fit together (leases do)")
    return ok("redis clock", seen)


def skew(client: Any) -> tuple[float, float]:
    """By how many seconds the server's clock is ahead of this one, and by how much that may be wrong."""
    best = (0.0, float("inf"))
    for _ in range(5):
        began = time.time()
        seconds, microseconds = client.time()
        took = time.time() - began
        if took / 2 < best[1]:
            best = (seconds + microseconds / 1e6 - began - took / 2, took / 2)
    return best


def _info(client: Client) -> dict[str, Any]:
    """What INFO says; nothing where the user may not ask."""
    try:
        return dict(client.info())
    except BrokerError:
        return {}


def _setting(client: Client, name: str) -> str:
    try:
        return str(client.config_get(name).get(name, ""))
    except BrokerError:  # managed servers do not tell
        return ""
