"""The run's Redis, which can be killed, made to forget its last moments, and stopped where it stands."""

import os
import signal
import time
from collections import deque
from pathlib import Path

from areal.broker.server import EmbeddedRedis

from .journal import Journal, RedisDied, RedisStarted

HISTORY_S = 3.0
EXCERPT = 1500


class MortalRedis:
    """A real server on an append-only file. `tend` it often: it starts what is to be started, from the main thread."""

    def __init__(self, directory: Path, journal: Journal) -> None:
        self._directory = directory
        self._journal = journal
        self._server = EmbeddedRedis(directory)
        self._back_at: float | None = None
        self._wake_at: float | None = None
        self._sizes: deque[tuple[float, int]] = deque()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def state(self) -> str:
        return "down" if not self._server.alive else "paused" if self._wake_at is not None else "up"

    def start(self) -> str:
        return self._server.start()

    def kill(self, *, lost_s: float, down_s: float) -> int:
        """Kill it; what it wrote in the last `lost_s` is cut off, as a loss of power would. Returns the bytes lost.

        A mere kill loses nothing: what the process has written is the kernel's, which lives on.
        """
        os.kill(self._server.pid, signal.SIGKILL)
        while self._server.alive:
            time.sleep(0.001)
        self._wake_at = None
        lost_bytes = self._forget(lost_s) if lost_s else 0
        self._journal.write(RedisDied(lost_bytes))
        self._back_at = time.monotonic() + down_s
        return lost_bytes

    def pause(self, lasts_s: float) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        self._wake_at = time.monotonic() + lasts_s

    def tend(self) -> str | None:
        """Start it or wake it up when that is due; what it said if it ended by itself."""
        now, last_words = time.monotonic(), None
        if self._wake_at is not None and now >= self._wake_at:
            self._wake()
        if not self._server.alive:
            if self._back_at is None:
                last_words = (self._directory / "redis.log").read_text(errors="replace")[-EXCERPT:]
            if self._back_at is None or now >= self._back_at:
                self._back_at = None
                self._journal.write(RedisStarted())
                self._server.start()
        self._measure(now)
        return last_words

    def stop(self) -> None:
        self._wake()
        self._server.stop()

    def _wake(self) -> None:
        self._wake_at = None
        if self._server.alive:
            os.kill(self._server.pid, signal.SIGCONT)

    def _measure(self, now: float) -> None:
        file = self._file()
        if file is not None:
            self._sizes.append((now, file.stat().st_size))
            while self._sizes[0][0] < now - HISTORY_S:
                self._sizes.popleft()

    def _forget(self, lost_s: float) -> int:
        file = self._file()
        if file is None:
            return 0
        size, then = file.stat().st_size, time.monotonic() - lost_s
        kept = max((was for at, was in self._sizes if at <= then), default=size)
        if kept < size:
            os.truncate(file, kept)
        self._sizes.clear()
        return max(0, size - kept)

    def _file(self) -> Path | None:
        """What Redis appends to: one file up to version 6, the newest increment from version 7 on."""
        increments = sorted(self._directory.glob("appendonlydir/*.incr.aof"), key=lambda file: file.stat().st_mtime)
        single = self._directory / "appendonly.aof"
        return increments[-1] if increments else single if single.exists() else None
