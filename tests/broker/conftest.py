"""Real servers with settings of the test's choice, and a proxy between them and the client that fails on demand."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.lifetime import begin_child
from areal.broker.server import find_server

START_TIMEOUT_S = 10.0


def free_port() -> int:
    """Low enough that a node of a cluster finds its second port, 10,000 above, free to use."""
    with contextlib.ExitStack() as taken:
        while True:
            probe = taken.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port < 55_000:
                return port


class RawRedis:
    """A redis-server on loopback; it may be killed and started again on the same port and data."""

    def __init__(self, directory: Path, settings: tuple[str, ...], *, sentinel: bool = False) -> None:
        directory.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.settings = list(settings)
        self._directory = directory
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *extra: str) -> None:
        file = self._directory / "redis.conf"
        lines = ["bind 127.0.0.1", f"port {self.port}", f'dir "{self._directory}"', *self.settings, *extra]
        file.write_text("\n".join(lines if self._sentinel else ['save ""', *lines]))
        command = [find_server(), str(file), *(["--sentinel"] if self._sentinel else [])]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=begin_child)  # noqa: PLW1509
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline and self._process.poll() is None, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


SpawnRedis = Callable[..., RawRedis]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[SpawnRedis]:
    """Starts redis-servers, which end with the test: spawn("setting value", …, sentinel=False)."""
    servers: list[RawRedis] = []

    def start(*settings: str, sentinel: bool = False) -> RawRedis:
        server = RawRedis(tmp_path / f"redis-{len(servers)}", settings, sentinel=sentinel)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


class Proxy:
    """Passes bytes between clients and a local port, encrypted towards the clients if it has a context."""

    def __init__(self, target: int, context: ssl.SSLContext | None = None) -> None:
        self.deaf = False
        self.replies_to_drop = 0
        self._target = target
        self._context = context
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._run(self._accept)

    def cut(self) -> None:
        """Break every connection."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *(end for pair in self._pairs for end in pair)):
            end.close()

    def _run(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._run(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        try:
            if self._context:
                client = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
                client.do_handshake()  # type: ignore[attr-defined]
            client.settimeout(None)
            server = socket.create_connection(("127.0.0.1", self._target), 10)
        except OSError:
            return self._dismiss(client)
        server.settimeout(None)
        self._pairs.append((client, server))
        self._run(self._pass, server, client, True)
        self._pass(client, server, False)

    def _dismiss(self, client: socket.socket) -> None:
        """Close a connection so that the client reads to its end what it was told last, an alert of TLS perhaps."""
        plain = socket.socket(fileno=client.detach())
        with contextlib.suppress(OSError):
            plain.settimeout(2)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass
        plain.close()

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if replies and self.deaf:
                    continue
                if replies and self.replies_to_drop:
                    self.replies_to_drop -= 1
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Starts proxies, which end with the test: proxy(port, context=None)."""
    made: list[Proxy] = []

    def start(target: int, context: ssl.SSLContext | None = None) -> Proxy:
        made.append(Proxy(target, context))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    """Of the learner that leads the run."""
    return Bulletin(client, run).lead()
