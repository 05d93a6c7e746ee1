"""Asks the learner for weights that it holds in its memory: an engine's end of `broker.weights: direct`.

The line is the worker's; over the channel, the processes of its engine receive the tensors themselves (vllm_weights.py).
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from ..broker.errors import BrokerError
from ..broker.transport import Depot, Held
from ..transfer.line import MAX_MANIFEST_BYTES, Ask, Hello, Line, Manifest, Welcome

ANSWER_S = 30.0

Call = Callable[..., Awaitable[list[Any]]]
"""Has every process of the engine do a method of PolicyWeights, with these arguments; what each has returned."""


class Receiver:
    """One engine's line to the learner; it is opened anew where another learner has come, or something went wrong."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._depot: Depot | None = None
        self._line: Line | None = None

    async def ask(self, held: Held) -> str:
        """The manifest of a version, whose tensors now wait in the channel. Raises BrokerError if they cannot be had.

        Nothing in the engine has changed by then.
        """
        where = f"weights {held.name} cannot be had from the learner at {held.depot.host}:{held.depot.port}"
        try:
            manifest = await self._manifest(held)
        except BrokerError as error:
            self.close()
            raise BrokerError(f"{where}: {error}") from error
        if manifest.tensors is None:
            raise BrokerError(f"{where}: it has newer ones")
        return manifest.model_dump_json()

    def require_open(self) -> None:
        """Raises BrokerError once the learner is gone, and what has not come of a version will not come any more.

        The channel may not notice that before its deadline.
        """
        if self._line is None:
            raise BrokerError("there is no line to the learner")
        self._line.require_open()

    def close(self) -> None:
        """Hang up, so that the learner waits for this engine no longer."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    async def _manifest(self, held: Held) -> Manifest:
        line = await self._opened(held.depot)
        await asyncio.to_thread(line.say, Ask(name=held.name), timeout_s=ANSWER_S)
        manifest = await asyncio.to_thread(line.hear, Manifest, timeout_s=ANSWER_S, max_bytes=MAX_MANIFEST_BYTES)
        if manifest.tensors is not None and manifest.digest != held.digest:
            raise BrokerError("they are others than were announced")
        return manifest

    async def _opened(self, depot: Depot) -> Line:
        """The line to that learner, with the engine's processes in the channel beside it."""
        if self._line is not None and self._depot == depot:
            with contextlib.suppress(BrokerError):
                self.require_open()
                return self._line
        self.close()
        devices = await self._call("gpu_of_policy")
        line = await asyncio.to_thread(_dialled, depot)
        try:
            await asyncio.to_thread(line.say, Hello(token=depot.token, devices=devices), timeout_s=ANSWER_S)
            welcome = await asyncio.to_thread(line.hear, Welcome, timeout_s=ANSWER_S)
            told = (depot.host, welcome.port, welcome.prefix, welcome.backend, line.own_host, 1 + len(devices))
            await self._call("meet_the_learner", *told)
        except BaseException:
            line.close()
            raise
        self._line, self._depot = line, depot
        return line


def _dialled(depot: Depot) -> Line:
    try:
        return Line(socket.create_connection((depot.host, depot.port), timeout=ANSWER_S))
    except OSError as error:
        raise BrokerError(f"nobody answers: {error}") from error
