"""The server and the client's patience with it: each test has a server of its own, to kill."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from areal.broker.address import redacted
from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import BrokerError, BrokerUnavailable
from areal.broker.lane import Lane
from areal.broker.server import EmbeddedRedis, find_live
from areal.broker.tickets import Tickets

from .samples import group, lease, prompts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    made = EmbeddedRedis(tmp_path / "a run's folder" / "redis")
    made.start()
    yield made
    made.stop()


def kill(server: EmbeddedRedis) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert server._process is not None
    server._process.wait()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_every_call_has_the_deadline(server: EmbeddedRedis) -> None:
    client = connect(server.url, timeout_s=0.5)
    lane, tickets = Lane(client, "run", "train"), Tickets(client, "run", "train", BrokerConfig())
    lane.issue(prompts(0, 1), after=0, epoch=1)
    (held,) = lease(tickets, "a", 1)
    kill(server)
    for call in (
        lane.depth,
        lane.listing,
        lane.positions,
        lambda: tickets.lease("a", count=1, timeout_s=0),
        lambda: tickets.complete(held, group(0)),
        lambda: lane.issue(prompts(1, 1), after=1, epoch=1),
        lambda: lane.take("0", count=1, timeout_s=0.1),
        lambda: DeadLetters(client, "run", "train").list(),
    ):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not answer"):
            call()
        assert time.monotonic() - began < 2.5
    client.close()


def test_data_survive_a_kill_and_the_client_reconnects(server: EmbeddedRedis) -> None:
    client = connect(server.url, timeout_s=10.0)
    lane, bulletin = Lane(client, "run", "train"), Bulletin(client, "run")
    tickets = Tickets(client, "run", "train", BrokerConfig())
    epoch = bulletin.lead()
    lane.issue(prompts(0, 3), after=0, epoch=epoch)
    tickets.lease("a", count=1, timeout_s=1)
    before = lane.listing().server
    time.sleep(1.1)
    kill(server)
    depths: list[int] = []
    caller = threading.Thread(target=lambda: depths.append(lane.depth().prompts))
    caller.start()  # while it is down
    time.sleep(0.2)
    url = server.start()
    caller.join(timeout=10)
    assert depths == [3]
    assert url == server.url
    assert lane.listing().server != before
    assert [each.prompt.id for each in tickets.lease("b", count=3, timeout_s=1)] == [1, 2]
    assert bulletin.lead() > epoch
    client.close()


def test_it_wants_its_password_and_listens_on_loopback_alone(server: EmbeddedRedis) -> None:
    host, port = redacted(server.url).split(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=5) as caller:
        caller.sendall(b"KEYS *\r\n")
        assert caller.recv(100).startswith(b"-NOAUTH")
    assert connect(server.url).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_stopping_ends_the_process(server: EmbeddedRedis) -> None:
    pid = server.pid
    server.stop()
    assert not is_alive(pid)
    server.stop()


def test_a_server_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedRedis(tmp_path, start_timeout_s=1.0)
        server._port = taken.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=r"redis\.log"):
            server.start()
    assert "in use" in (tmp_path / "redis.log").read_text()


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from areal.broker.server import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert is_alive(pid)
        starter.kill()
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)
    assert (tmp_path / "url").exists()
    assert find_live(tmp_path) is None
    again = EmbeddedRedis(tmp_path)
    again.start()
    assert find_live(tmp_path) == again.url
    again.stop()


def test_its_url_is_found_while_it_runs_and_by_its_owner_alone(server: EmbeddedRedis) -> None:
    directory, umask = server._directory, os.umask(0)
    try:
        kill(server)
        (directory / "url").chmod(0o666)
        (directory / ".url.partial").touch()  # of a crash
        server.start()
    finally:
        os.umask(umask)
    assert find_live(directory) == server.url
    assert stat.S_IMODE((directory / "url").stat().st_mode) == 0o600
    assert sorted(file.name for file in directory.iterdir()) == ["appendonly.aof", "lock", "redis.log", "url"]
    server.stop()
    assert not (directory / "url").exists()
    assert find_live(directory) is None


def test_a_stale_url_is_none(server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.broker.server.FIND_TIMEOUT_S", 0.3)
    directory = server._directory
    url = server.url
    for stale in ("", "nonsense", "redis://127.0.0.1:1/0", url.replace("redis://:", "redis://:not-"), url + "?x=y"):
        (directory / "url").write_text(stale)
        assert find_live(directory) is None, stale
    other = EmbeddedRedis(tmp_path / "other")
    other.start()
    (directory / "url").write_text(other.url)
    assert find_live(directory) is None
    other.stop()
    kill(server)
    assert find_live(directory) is None
    assert find_live(tmp_path / "nowhere") is None


def test_two_servers_do_not_share_a_directory(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.broker.server.LOCK_TIMEOUT_S", 0.2)
    other = EmbeddedRedis(server._directory)
    with pytest.raises(BrokerError, match=rf"another redis-server, started by process {os.getpid()}, runs on .*redis"):
        other.start()
    other.stop()
    assert find_live(server._directory) == server.url
    server.stop()
    other.start()
    assert find_live(server._directory) == other.url
    other.stop()


def test_a_torn_append_only_file_loses_its_torn_end_alone(server: EmbeddedRedis) -> None:
    with connect(server.url) as client:
        client.set("whole", 1)
    server.stop()
    with (server._directory / "appendonly.aof").open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    server.start()
    with connect(server.url) as client:
        assert client.keys() == [b"whole"]


def test_its_password_is_in_its_url_file_alone(server: EmbeddedRedis, caplog: pytest.LogCaptureFixture) -> None:
    password = server._password.encode()
    kill(server)
    server.start()
    with connect(server.url) as client:
        client.set("key", "value")
    holding = [file.name for file in server._directory.iterdir() if password in file.read_bytes()]
    assert holding == ["url"]
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert server._password not in caplog.text
