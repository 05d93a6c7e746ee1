"""The server and the client's patience with it: each test has a server of its own, to kill."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect, redacted
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import BrokerUnavailable
from areal.broker.lane import Lane
from areal.broker.server import EmbeddedRedis
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


def test_an_unreachable_server_is_given_up_at_the_deadline() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{taken.getsockname()[1]}/0"
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not answer PING") as caught:
            connect(url, timeout_s=0.5)
    assert time.monotonic() - began < 2.0
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            connect(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", timeout_s=0.5)
    assert time.monotonic() - began < 4.0


@pytest.mark.parametrize("url", ["http://user:secret@somewhere", "redis://:secret@host:port/0", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"broker\.url") as caught:
        connect(url, timeout_s=0.5)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_told_at_once(server: EmbeddedRedis) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        connect(f"redis://:wrong@{redacted(server.url)}/0", timeout_s=20.0)
    assert time.monotonic() - began < 5.0
    assert "wrong@" not in str(caught.value)


def test_a_url_is_shown_without_its_password() -> None:
    assert redacted("redis://user:secret@host:7000/0") == "host:7000"
    assert redacted("redis://host") == "host:6379"


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
