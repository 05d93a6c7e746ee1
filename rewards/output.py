"""What a reward process prints, on its way to the log: so much for each call, and the rest counted."""

import asyncio
import os

MAX_BYTES = 65_536
CHUNK_BYTES = 65_536
STDERR = 2


class Output:
    """Reads a pipe to its end, so that whoever writes to it never waits, and passes on as much as is due."""

    def __init__(self, pipe: asyncio.StreamReader, *, max_bytes: int = MAX_BYTES) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._left_out = 0
        self._reading = asyncio.create_task(self._read())

    def next_call(self) -> None:
        """From now on the next call is what prints."""
        if self._left_out:
            _write(f"\n… {self._left_out} bytes more that a reward printed are left out\n".encode())
        self._left, self._left_out = self._max_bytes, 0

    async def close(self, timeout_s: float) -> None:
        """Pass on what is there yet; a process that was detached may hold the pipe open for ever."""
        await asyncio.wait({self._reading}, timeout=timeout_s)
        self._reading.cancel()
        self.next_call()

    async def _read(self) -> None:
        while chunk := await self._pipe.read(CHUNK_BYTES):
            passed = chunk[: self._left]
            self._left -= len(passed)
            self._left_out += len(chunk) - len(passed)
            if passed:
                _write(passed)


def _write(text: bytes) -> None:
    try:
        os.write(STDERR, text)
    except OSError:  # nobody reads this process's log any more
        return
