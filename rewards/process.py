"""The child: a process that computes rewards until its parent ends it (see frames.py).

Plain functions are called one at a time. Where one is `async def`, all calls that have come are under way together, as
such a function mostly waits for somebody else.

Whatever a function prints goes to stderr, and what it reads from stdin is empty: the pipes belong to the pool. It runs
in a session of its own, so Ctrl-C in a terminal does not reach it, and dies with its parent even when that is killed.
Heavy libraries are imported by the functions that need them, never here: a killed process is replaced in a tenth of
a second.
"""

import contextlib
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..broker.errors import ArealError, ConfigError, RewardError
from ..broker.lifetime import end_with_parent
from . import counters, frames
from .loading import load_reward
from .pictures import from_wire
from .reward import TEXTS, Reward, all_checked, checked, prepare

MAX_TRACEBACK_CHARS = 8_000
OOM_SCORE = 500
"""Of 1000; other processes have 0."""


def main() -> None:
    """Serves the parent whose process id is the first argument."""
    end_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_first()
    requests, answers = claim_pipes()
    messages = read_frames(requests)
    try:
        timeout_s, functions = next(messages)
        rewards = [prepare(name, load_reward(name), kwargs) for name, kwargs in functions]
        for reward in rewards:
            reward.begin()
    except ConfigError as error:
        return send(answers, frames.pack([0, frames.CONFIG, str(error)]))
    except BaseException as error:
        return send(answers, frames.pack([0, frames.ERROR, told(error)]))
    together = any(inspect.iscoroutinefunction(reward.function) for reward in rewards)
    send(answers, frames.pack([0, frames.READY, {"takes": [each.takes for each in rewards], "together": together}]))
    if together:
        return serve_together(messages, rewards, answers, timeout_s)
    wait = waiter()
    for call, index, *given in messages:
        send(answers, answer(call, rewards[index], given, wait))


def serve_together(messages: Iterator[Any], rewards: list[Reward], answers: BinaryIO, timeout_s: float | None) -> None:
    """Has every call under way as soon as it has come, for as long as it may take, and answers it once it is done."""
    import asyncio  # heavy, and most rewards are plain functions

    async def serve_one(call: int, index: int, *given: Any) -> None:
        send(answers, await answer_later(call, rewards[index], given, timeout_s))

    async def serve() -> None:
        under_way: set[asyncio.Task[None]] = set()
        while (message := await asyncio.to_thread(next, messages, None)) is not None:
            task = asyncio.create_task(serve_one(*message))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    asyncio.run(serve())


def die_first() -> None:
    """Have a kernel that is out of memory end this process before the learner or Redis."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


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
        yield frames.unpack(pipe.read(frames.length(header, max_bytes=frames.MAX_CALL_BYTES)))


def send(pipe: BinaryIO, frame: bytes) -> None:
    """Writes all of it now."""
    pipe.write(frame)
    pipe.flush()


def answer(call: int, reward: Reward, given: Sequence[Any], wait: Callable[[Awaitable[Any]], Any]) -> bytes:
    """The frame that answers a call: its value, or those of a list of answers, or why there is none.

    `given` is the prompt, what was answered, and the row.
    """
    try:
        found = _called(reward, *given)
        return _valued(call, reward, wait(_settled(found)) if _is_pending(found) else found, given)
    except BaseException as error:
        return _failed(call, error)


async def answer_later(call: int, reward: Reward, given: Sequence[Any], timeout_s: float | None) -> bytes:
    """The same, while others are under way; it fails once it has taken so long."""
    import asyncio

    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            found = _called(reward, *given)
            return _valued(call, reward, await _settled(found) if _is_pending(found) else found, given)
    except BaseException as error:
        if deadline.expired():
            return _failed(call, RewardError(f"timed out after {timeout_s:g} s"))
        return _failed(call, error)


def _called(reward: Reward, prompt: str, answered: Any, row: dict[str, Any]) -> Any:
    """What the function returns, which may have to be awaited."""
    if isinstance(answered, str):
        return reward(prompt, answered, row)
    if reward.takes == TEXTS:
        return reward.of_texts(prompt, answered, row)
    return reward.of_images(prompt, from_wire(answered), row)


def _is_pending(found: Any) -> bool:
    return inspect.isawaitable(found) or (isinstance(found, list) and any(map(inspect.isawaitable, found)))


async def _settled(found: Any) -> Any:
    """What it comes to; of a list, all at once."""
    import asyncio

    async def settled(each: Any) -> Any:
        return await each if inspect.isawaitable(each) else each

    return list(await asyncio.gather(*map(settled, found))) if isinstance(found, list) else await found


def _valued(call: int, reward: Reward, found: Any, given: Sequence[Any]) -> bytes:
    """The frame of what a function says; raises RewardError if that is no reward."""
    _, answered, _ = given
    value: Any = (
        checked(reward.name, found) if isinstance(answered, str) else all_checked(reward.name, found, len(answered))
    )
    return frames.pack([call, frames.VALUE, value, *_counted()])


def _failed(call: int, error: BaseException) -> bytes:
    return frames.pack([call, frames.ERROR, told(error), *_counted()])


def _counted() -> list[dict[str, float]]:
    """The fourth item of an answer; none where nothing was counted."""
    counted = counters.drain()
    return [counted] if counted else []


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
