"""Messages on pipes within the sandbox, and from it: a length of eight digits, then a value (values.py)."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_BYTES = 8
READ_BYTES = 1 << 16


class Ended(BaseException):
    """The program is gone, or says what is no answer."""


class OutOfTime(BaseException):
    """The time of all tests is over."""


def frame(body: bytes) -> bytes:
    """The body behind its length."""
    return b"%8d%s" % (len(body), body)


def write_all(pipe: int, data: bytes) -> None:
    """Waits until all of it is in the pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


def read_exactly(pipe: int, size: int) -> bytes:
    """So many bytes; EOFError when there are fewer."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(pipe, min(size - len(parts), 1 << 24))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def read_frame(pipe: int) -> bytes:
    """The body of the next message from one who is trusted."""
    return read_exactly(pipe, int(read_exactly(pipe, HEADER_BYTES)))


def read_frame_until(read: Callable[[int], bytes], max_bytes: int) -> bytes:
    """The body of the next message, by a function that reads at most so many bytes; raises Ended if it is too long."""
    header = read_part(read, HEADER_BYTES)
    if not header.strip().isdigit() or int(header) > max_bytes:
        raise Ended
    return read_part(read, int(header))


def read_part(read: Callable[[int], bytes], size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        parts += read(size - len(parts))
    return bytes(parts)


def ready(pipes: list[int], deadline: float) -> list[int]:
    """Those of the pipes that can be read, as soon as there is one; raises OutOfTime at the deadline."""
    left = deadline - time.monotonic()
    found = select.select(pipes, [], [], left)[0] if left > 0 else []
    if not found:
        raise OutOfTime
    return found


def drain(pipe: int) -> None:
    """Throws away what is in the pipe by now."""
    while select.select([pipe], [], [], 0)[0] and os.read(pipe, READ_BYTES):
        pass
