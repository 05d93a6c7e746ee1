"""Real servers, each set as a check wants it or not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from areal.broker.client import Client, connect
from areal.broker.server import EmbeddedRedis
from areal.launch.doctor import exposure, redis
from areal.launch.doctor.finding import Check, Finding, carry_out
from areal.launch.doctor.redis import look_at_redis

from .conftest import Configure

Look = Callable[..., dict[str, Finding]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """Of this module's own, as its settings are changed."""
    made = EmbeddedRedis(tmp_path_factory.mktemp("doctored"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def admin(server: EmbeddedRedis) -> Iterator[Client]:
    """Changes settings, which are as they were when the test is over."""
    with connect(server.url) as client:
        names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "requirepass")
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


@pytest.fixture
def look(server: EmbeddedRedis, admin: Client, configure: Configure) -> Look:
    """What is found of the server, by the name of the check."""

    def found(*, url: str = server.url, wanted: float = 2**20) -> dict[str, Finding]:
        check = Check("redis", lambda: look_at_redis(configure(), url, wanted))
        return {finding.check: finding for finding in carry_out([check])}

    return found


def test_a_server_as_it_should_be(look: Look, admin: Client) -> None:
    found = look()
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert "a round trip takes" in found["redis"].seen
    assert found["redis persistence"].seen == "append-only file, flushed everysec"
    assert not list(admin.scan_iter("*doctor*"))


def test_one_that_keeps_nothing_or_evicts_is_a_problem(look: Look, admin: Client) -> None:
    admin.config_set("appendonly", "no")
    admin.config_set("maxmemory-policy", "allkeys-lru")
    found = look()
    assert found["redis persistence"].level == found["redis eviction"].level == "problem"
    assert "config set appendonly yes" in found["redis persistence"].remedy
    assert "allkeys-lru" in found["redis eviction"].seen and "noeviction" in found["redis eviction"].remedy


def test_one_that_never_flushes_is_warned_of(look: Look, admin: Client) -> None:
    admin.config_set("appendfsync", "no")
    found = look()["redis persistence"]
    assert found.level == "warning" and "appendfsync everysec" in found.remedy


def test_the_room_that_it_has_is_enough_or_not(look: Look, admin: Client) -> None:
    admin.config_set("maxmemory", str(2**28))
    assert look(wanted=2**27)["redis memory"].level == "ok"
    small = look(wanted=2**28)["redis memory"]
    assert small.level == "problem" and "raise maxmemory" in small.remedy and "256 MiB (maxmemory)" in small.seen


def test_a_user_who_may_not_write_is_told_of(look: Look, admin: Client, server: EmbeddedRedis) -> None:
    admin.execute_command(
        "ACL", "SETUSER", "reader", "on", ">opensesame", "~areal:*", "+@read", "+@connection", "+time"
    )
    found = look(
        url=server.url.replace("//:", "//reader:").replace(server.url.split(":")[2].split("@")[0], "opensesame")
    )
    assert found["redis rights"].level == "problem" and "docs/protocol.md" in found["redis rights"].remedy
    assert found["redis persistence"].level == "warning"
    assert "opensesame" not in str(found)


def test_a_clock_that_is_off_is_warned_of(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    real = redis.time.time
    monkeypatch.setattr(redis.time, "time", lambda: real() + 90)
    found = look()["redis clock"]
    assert found.level == "warning" and "behind" in found.seen and "NTP" in found.remedy


def test_a_server_that_is_not_there_is_a_problem_and_shows_no_password(
    look: Look, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "ANSWER_S", 0.2)
    monkey = server.url.rpartition(":")[0] + ":1/0"
    found = look(url=monkey)
    assert found["redis"].level == "problem" and "did not answer PING" in found["redis"].seen
    assert monkey.split(":")[2].partition("@")[0] not in str(found)


def test_a_server_far_away_is_warned_of(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "SLOW_MS", 0.0)
    assert look()["redis"].level == "warning"


def test_who_can_use_it_and_read_along(look: Look, admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look()["redis exposure"].seen == "on loopback, with a password"
    monkeypatch.setattr(exposure, "is_loopback", lambda host: False)
    assert "without TLS" in look()["redis exposure"].seen
    monkeypatch.undo()
    admin.config_set("requirepass", "")
    assert look()["redis exposure"].level == "warning"
    monkeypatch.setattr(exposure, "is_loopback", lambda host: False)
    assert [finding.level for finding in exposure.look_at_exposure("redis://" + url_of(admin))] == [
        "problem",
        "warning",
    ]


def test_a_unix_socket_is_for_this_machine_alone() -> None:
    (found,) = exposure.look_at_exposure("unix:///run/redis.sock")
    assert found.level == "ok" and "Unix socket" in found.seen


@pytest.mark.parametrize(
    ("host", "is_one"), [("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False), ("", False)]
)
def test_loopback_is_told(host: str, is_one: bool) -> None:
    assert exposure.is_loopback(host or "no-such-host.invalid") is is_one


def url_of(client: Any) -> str:
    return f"127.0.0.1:{client.info('server')['tcp_port']}/0"


def test_a_replica_is_a_problem(
    server: EmbeddedRedis, admin: Client, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "ANSWER_S", 0.2)
    replica = EmbeddedRedis(tmp_path / "replica")
    replica.start()
    try:
        with connect(replica.url) as client:
            client.config_set("masterauth", server.url.split(":")[2].partition("@")[0])
            client.replicaof("127.0.0.1", str(admin.info("server")["tcp_port"]))
        found = {finding.check: finding for finding in look_at_redis(configure(), replica.url, 0.0)}
    finally:
        replica.stop()
    assert found["redis role"].level == found["redis rights"].level == "problem"
