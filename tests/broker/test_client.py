"""The client's patience: what it waits for, what it does not, how long, and what it says then."""

import gc
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from areal.broker import client as client_module
from areal.broker.address import redacted
from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, Packer, connect, is_open_to_all
from areal.broker.config import BrokerConfig
from areal.broker.errors import BrokerError, BrokerUnavailable, ConfigError
from areal.broker.lane import Lane
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Prompt

from .conftest import Proxy, SpawnRedis


def prompts(count: int) -> list[Prompt]:
    return [Prompt(i, 0, 1, {"prompt": "x" * 100}) for i in range(count)]


class OldRedis(socketserver.ThreadingTCPServer):
    """Speaks as much of the protocol as a client needs to learn its version."""

    daemon_threads = True

    class RequestHandlerClass(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                words = []
                for _ in range(int(head[1:])):
                    self.rfile.readline()
                    words.append(self.rfile.readline().strip())
                self.wfile.write(self.server.answer(words))  # type: ignore[attr-defined]

    def __init__(self, answer: Callable[[list[bytes]], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.answer = answer
        self.url = f"redis://user:secret@127.0.0.1:{self.server_address[1]}/0"


@pytest.fixture
def fake() -> Iterator[Callable[[Callable[[list[bytes]], bytes]], OldRedis]]:
    """Starts servers that answer as they are told."""
    made: list[OldRedis] = []

    def start(answer: Callable[[list[bytes]], bytes]) -> OldRedis:
        made.append(OldRedis(answer))
        threading.Thread(target=made[-1].serve_forever, args=(0.01,)).start()
        return made[-1]

    yield start
    for one in made:
        one.shutdown()
        one.server_close()


# Deadlines


def test_an_unreachable_server_is_given_up_at_the_deadline() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{taken.getsockname()[1]}/0"
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            connect(url, timeout_s=0.5)
    assert 0.5 <= time.monotonic() - began < 1.0
    assert f"redis at {redacted(url)} did not answer PING within 0.5 s (broker.timeout_s)" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_server_that_accepts_and_says_nothing_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not answer PING"):
            connect(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", timeout_s=0.5)
    assert time.monotonic() - began < 0.5 + client_module.LONGEST_BLOCK_S + 0.5


def test_a_server_that_goes_deaf_is_named_with_what_was_awaited(
    redis_url: str, proxy: Callable[[int], Proxy], run: str
) -> None:
    between = proxy(int(redacted(redis_url).partition(":")[2]))
    client = connect(redis_url.replace(redacted(redis_url), f"127.0.0.1:{between.port}"), timeout_s=0.5)
    lane, tickets = Lane(client, run, "train"), Tickets(client, run, "train", BrokerConfig())
    between.deaf = True
    for call, name in (
        (lambda: tickets.lease("a", count=1, timeout_s=1), "XAUTOCLAIM"),
        (lambda: lane.take("0", count=1, timeout_s=1), "XREAD"),
        (lambda: Bulletin(client, run).lead(), "EVALSHA"),
        (lane.depth, r"a pipeline of 6 \(GET, XLEN, SCARD\)"),
        (lambda: client.pipeline().watch("key"), "WATCH"),
    ):
        began = time.monotonic()
        with pytest.raises(
            BrokerUnavailable,
            match=rf"^redis at 127.0.0.1:{between.port} did not answer {name} within 0.5 s \(broker.timeout_s\): ",
        ):
            call()
        assert time.monotonic() - began < 0.5 + client_module.LONGEST_BLOCK_S + 0.5, name
    client.close()


def test_a_connection_that_is_lost_without_a_word_is_made_anew(
    redis_url: str, proxy: Callable[[int], Proxy], run: str
) -> None:
    between = proxy(int(redacted(redis_url).partition(":")[2]))
    client = connect(redis_url.replace(redacted(redis_url), f"127.0.0.1:{between.port}"), timeout_s=6.0)
    between.deaf = True
    hears = threading.Timer(2.0, lambda: setattr(between, "deaf", False))
    hears.start()  # what the first try asked is never answered
    began = time.monotonic()
    assert client.ping()
    assert time.monotonic() - began < 6.0 / 2 + client_module.LONGEST_BLOCK_S + 0.5
    hears.join()
    client.close()


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_call_whose_connection_is_cut_is_made_again(
    redis_url: str, proxy: Callable[[int], Proxy], run: str, pipelined: bool
) -> None:
    between = proxy(int(redacted(redis_url).partition(":")[2]))
    client = connect(redis_url.replace(redacted(redis_url), f"127.0.0.1:{between.port}"), timeout_s=5.0)
    lane = Lane(client, run, "train")
    between.replies_to_drop = 1
    if pipelined:
        assert client.pipeline().incr(run).execute() == [2]  # Redis had counted before the reply was lost
    else:
        epoch = Bulletin(client, run).lead()
        between.replies_to_drop = 1
        assert lane.issue(prompts(3), after=0, epoch=epoch) == 3
        assert lane.depth().prompts == 3
    client.close()


def test_connections_that_the_server_closes_are_not_noticed(redis_url: str, run: str) -> None:
    client, admin = connect(redis_url, timeout_s=5.0), connect(redis_url)
    pipe = client.pipeline(transaction=False)
    pipe.set(f"{run}:a", 1).get(f"{run}:a")
    admin.client_kill_filter(_type="normal", skipme=True)
    assert pipe.execute() == [True, b"1"]
    admin.client_kill_filter(_type="normal", skipme=True)
    assert client.get(f"{run}:a") == b"1"
    client.close()
    admin.close()


# Answers that are refusals


def test_a_wrong_password_is_told_at_once_with_what_to_change(redis_url: str) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerError, match="AREAL_REDIS_PASSWORD") as caught:
        connect(f"redis://me:wrong-secret@{redacted(redis_url)}/0", timeout_s=20.0)
    with pytest.raises(BrokerError, match=r"set them in broker\.url"):
        connect(f"redis://{redacted(redis_url)}/0", timeout_s=20.0)
    assert time.monotonic() - began < 2.0
    assert not isinstance(caught.value, BrokerUnavailable)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:secret@somewhere", "redis://:secret@host:port/0", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.url") as caught:
        connect(url, timeout_s=0.5)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_too_old_is_refused(fake: Callable[..., OldRedis]) -> None:
    def answer(words: list[bytes]) -> bytes:
        info = b"redis_version:6.0.16\r\n"
        return {
            b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
            b"PING": b"+PONG\r\n",
            b"INFO": b"$%d\r\n%s\r\n" % (len(info), info),
        }.get(words[0], b"-ERR unknown\r\n")

    with pytest.raises(BrokerError, match=r"is Redis 6\.0\.16; 6\.2 or newer is needed") as caught:
        connect(fake(answer).url, timeout_s=5.0)
    assert "secret" not in str(caught.value)


def test_a_server_that_repeats_the_password_is_not_repeated(fake: Callable[..., OldRedis]) -> None:
    def answer(words: list[bytes]) -> bytes:
        said = b" ".join(b"`%s`," % word for word in words[1:])
        return b"-ERR unknown command `%s`, with args beginning with: %s\r\n" % (words[0], said)

    with pytest.raises(BrokerError, match=r"6\.2 or newer is needed") as caught:
        connect(fake(answer).url, timeout_s=5.0)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_what_is_no_redis_is_refused(fake: Callable[..., OldRedis]) -> None:
    with pytest.raises(BrokerError, match=r"does not speak Redis's protocol; TLS needs rediss://"):
        connect(fake(lambda words: b"HTTP/1.1 400 Bad Request\r\n").url, timeout_s=5.0)


def test_a_full_server_is_waited_for_and_then_named(spawn: SpawnRedis, run: str) -> None:
    server = spawn("maxmemory-policy noeviction", "appendonly yes")
    client, admin = connect(server.url, timeout_s=1.0), connect(server.url)
    lane, epoch = Lane(client, run, "train"), Bulletin(client, run).lead()
    lane.issue(prompts(3), after=0, epoch=epoch)
    admin.config_set("maxmemory", "1")
    for call in (
        lambda: lane.issue([Prompt(3, 0, 1, {})], after=3, epoch=epoch),
        lambda: Bulletin(client, run).report({"kind": "event", "time": 0}),
        lambda: Bulletin(client, run).lead(),
    ):
        with pytest.raises(
            BrokerError, match=r"refused .* within 1 s \(broker.timeout_s\): Redis is full: raise its max"
        ):
            call()
    threading.Timer(0.3, lambda: admin.config_set("maxmemory", "0")).start()
    assert lane.issue([Prompt(3, 0, 1, {})], after=3, epoch=epoch) == 4
    client.close()
    admin.close()


def test_a_replica_is_waited_for_until_it_is_the_master(spawn: SpawnRedis, run: str) -> None:
    server = spawn("appendonly yes")
    client, admin = connect(server.url, timeout_s=0.5), connect(server.url)
    lane = Lane(client, run, "train")
    epoch = Bulletin(client, run).lead()
    admin.replicaof("127.0.0.1", "1")
    for call in (lambda: lane.issue(prompts(1), after=0, epoch=epoch), lambda: client.set("key", 1)):
        with pytest.raises(BrokerUnavailable, match="read-only replica: name its master"):
            call()
    threading.Timer(0.2, lambda: admin.replicaof("NO", "ONE")).start()
    assert lane.issue(prompts(1), after=0, epoch=epoch) == 1
    client.close()
    admin.close()


def test_a_server_that_loads_its_data_is_waited_for(spawn: SpawnRedis) -> None:
    server = spawn("appendonly yes", "aof-use-rdb-preamble no")
    client = connect(server.url, timeout_s=10.0)
    pipe = client.pipeline(transaction=False)
    for i in range(5000):
        pipe.set(str(i), i)
    pipe.execute()
    client.wait(0, 0)
    server.kill()
    server.start("key-load-delay 200")
    with pytest.raises(BrokerUnavailable, match="still loading"):
        connect(server.url, timeout_s=0.1)
    assert client.dbsize() >= 4900
    client.close()


def test_what_a_script_says_is_its_callers(client: Client) -> None:
    with pytest.raises(redis.ResponseError, match=r"^FENCED 7"):
        client.eval("return redis.error_reply('FENCED 7')", 0)
    with pytest.raises(redis.ResponseError, match=r"^WRONGTYPE"):
        client.eval("redis.call('SET', KEYS[1], 1); return redis.pcall('XLEN', KEYS[1])", 1, "some-string")


# Warnings


def test_a_server_that_may_lose_data_is_warned_of_once(
    spawn: SpawnRedis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = spawn("maxmemory-policy allkeys-lru", "requirepass secret")
    url = server.url.replace("//", "//:secret@")
    caplog.set_level(logging.WARNING)
    connect(redis_url).close()
    assert not caplog.messages
    for _ in range(2):
        connect(url).close()
    assert [message.partition(" (")[0] for message in caplog.messages] == [
        f"redis at 127.0.0.1:{server.port} evicts keys when it is full",
        f"redis at 127.0.0.1:{server.port} keeps no append-only file: set appendonly to yes, or a restart may lose groups",
    ]
    assert "secret" not in caplog.text


# Pipelines and scripts


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    made = EmbeddedRedis(tmp_path_factory.mktemp("own") / "redis")
    made.start()
    yield made
    made.stop()


def restart(server: EmbeddedRedis) -> None:
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    server.start()


@pytest.mark.parametrize("transaction", [False, True])
def test_scripts_in_pipelines_outlive_a_restart(server: EmbeddedRedis, transaction: bool) -> None:
    client = connect(server.url, timeout_s=10.0)
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")

    def batch() -> list[int]:
        with client.pipeline(transaction=transaction) as pipe:
            pipe.set("sum", 1)
            add(keys=["sum"], args=[4], client=pipe)
            return [int(reply) for reply in pipe.execute()]

    assert batch() == [1, 5]
    restart(server)
    assert batch() == [1, 5]
    client.script_flush()
    assert batch() == [1, 5]
    with client.pipeline(transaction=transaction) as pipe:
        add(keys=["sum"], args=[4], client=pipe)
        load, restarts = pipe.load_scripts, iter([restart])

        def load_and_restart() -> None:
            load()
            for again in restarts:
                again(server)

        pipe.load_scripts = load_and_restart  # type: ignore[method-assign]
        assert len(pipe.execute()) == 1
    assert add(keys=["sum"], args=[1]) >= 6
    client.close()


def test_a_pipeline_waits_for_a_server_that_is_away(server: EmbeddedRedis) -> None:
    client = connect(server.url, timeout_s=10.0)
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    replies: list[object] = []
    caller = threading.Thread(target=lambda: replies.append(client.pipeline().set("a", 1).get("a").execute()))
    caller.start()
    time.sleep(0.2)
    server.start()
    caller.join(10)
    assert replies == [[True, b"1"]]
    client.close()


def test_a_pipeline_that_watches_says_that_it_must_begin_again(server: EmbeddedRedis) -> None:
    client = connect(server.url, timeout_s=10.0)
    with client.pipeline() as pipe:
        pipe.watch("a")
        restart(server)
        pipe.multi()
        pipe.set("a", 1)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("a") is None
    client.close()


def test_a_command_that_fails_in_a_pipeline_is_its_callers(client: Client, run: str) -> None:
    pipe = client.pipeline(transaction=False)
    pipe.set(run, "text").incr(run).get(run)
    replies = pipe.execute(raise_on_error=False)
    assert isinstance(replies[1], redis.ResponseError) and replies[2] == b"text"
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.pipeline().incr(run).execute()


# Threads, and writing


def test_threads_share_a_client_through_a_restart(server: EmbeddedRedis) -> None:
    client = connect(server.url, timeout_s=10.0)
    Lane(client, "run", "train").issue(prompts(1), after=0, epoch=Bulletin(client, "run").lead())

    def work(index: int) -> int:
        lane = Lane(client, "run", "train")
        for step in range(40):
            lane.depth()
            client.pipeline().set(f"{index}", step).get(f"{index}").execute()
            lane.take("0", count=1, timeout_s=0.001)
        return int(client.get(f"{index}") or -1)

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(work, index) for index in range(8)]
        time.sleep(0.1)
        restart(server)
        assert [future.result(30) for future in done] == [39] * 8
    assert client.connection_pool.get_connection_count()[1][0] == 0  # none is in use any more
    client.close()
    gc.collect()


@pytest.mark.parametrize("size", [0, 100, client_module.LARGE_BYTES, client_module.LARGE_BYTES + 1, 3 * 2**20])
def test_values_of_every_size_arrive_as_they_were_sent(client: Client, run: str, size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    value = value[:size]
    for kind in (bytes, bytearray, memoryview):
        client.set(run, kind(value))  # type: ignore[arg-type]
        assert client.get(run) == value
    with client.pipeline(transaction=False) as pipe:
        assert pipe.set(run, value).get(run).set(run, "1").execute() == [True, value, True]


def test_commands_are_packed_the_same_by_either_serializer(client: Client) -> None:
    packer = Packer(client.get_encoder().encode)
    for command in (("SET", "ключ", b"\x00\xff"), ("CONFIG GET", "dir"), ("SET", "a", 1.5), ("SET", b"b", 7)):
        assert b"".join(packer._large.pack(*command)) == b"".join(packer.pack(*command))
    value = b"x" * (client_module.LARGE_BYTES + 1)
    assert any(piece is value for piece in packer.pack("SET", "a", value))  # not copied


def test_a_server_that_asks_for_no_password_is_told(
    spawn: SpawnRedis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AREAL_REDIS_PASSWORD", "of the environment")
    assert is_open_to_all(spawn("appendonly yes").url, timeout_s=5.0)
    assert not is_open_to_all(redis_url, timeout_s=5.0)
    assert not is_open_to_all("redis://127.0.0.1:1/0", timeout_s=0.1)
