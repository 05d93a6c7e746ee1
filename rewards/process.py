"""The child: a process that computes rewards, one call at a time, until its parent ends it (see frames.py).

Whatever a function prints goes to stderr, and what it reads from stdin is empty: the pipes belong to the pool. It runs
in a session of its own, so Ctrl-C in a terminal does not reach it, and dies with its parent even when that is killed.
Heavy libraries are imported by the functions that need them, never here: a killed process is replaced in a tenth of
a second.
"""

import inspect
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, BinaryIO

from ..broker.errors import ArealError, ConfigError
from ..broker.lifetime import end_with_parent
from . import frames
from .loading import load_reward
from .reward import Reward, checked, prepare

MAX_TRACEBACK_CHARS = 8_000


def main() -> None:
    """Serves the parent whose process id is the first argument."""
    end_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = claim_pipes()
    messages = read_frames(requests)
    try:
        rewards = [prepare(name, load_reward(name), kwargs) for name, kwargs in next(messages)]
    except ConfigError as error:
        return send(answers, frames.pack([0, frames.CONFIG, str(error)]))
    except BaseException as error:
        return send(answers, frames.pack([0, frames.ERROR, told(error)]))
    send(answers, frames.pack([0, frames.READY, ""]))
    wait = waiter()
    for call, index, prompt, completion, row in messages:
        send(answers, answer(call, rewards[index], (prompt, completion, row), wait))


def claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes from and to the parent, moved out of reach: fd 0 becomes empty and fd 1 becomes stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a kill would lose a full buffer
    return requests, answers


def read_frames(pipe: BinaryIO) -> Iterator[Any]:
    """The parent's messages, until it closes the pipe."""
    while len(header := pipe.read(frames.HEADER.size)) == frames.HEADER.size:
        yield frames.unpack(pipe.read(frames.length(header)))


def send(pipe: BinaryIO, frame: bytes) -> None:
    """Writes all of it now."""
    pipe.write(frame)
    pipe.flush()


def answer(
    call: int, reward: Reward, given: tuple[str, str, dict[str, Any]], wait: Callable[[Awaitable[Any]], Any]
) -> bytes:
    """The frame that answers a call: its value, or why there is none."""
    try:
        value = reward(*given)
        if inspect.isawaitable(value):
            value = wait(value)
        return frames.pack([call, frames.VALUE, checked(reward.name, value)])
    except BaseException as error:
        return frames.pack([call, frames.ERROR, told(error)])


def waiter() -> Callable[[Awaitable[Any]], Any]:
    """A function that runs an awaitable to its end, always on one loop: an HTTP client may outlive a call."""
    loop: Any = None

    def wait(awaitable: Awaitable[Any]) -> Any:
        nonlocal loop
        import asyncio  # heavy, and most rewards are plain functions

        async def ended() -> Any:
            return await awaitable

        loop = loop or asyncio.new_event_loop()
        return loop.run_until_complete(ended())

    return wait


def told(error: BaseException) -> str:
    """The error as text: its message if it is ours, else its traceback, from the user's first line on."""
    if isinstance(error, ArealError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    return text if len(text) <= MAX_TRACEBACK_CHARS else f"…{text[-MAX_TRACEBACK_CHARS:]}"
