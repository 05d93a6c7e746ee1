"""Rewards computed in processes apart: one that hangs, crashes or leaks harms no other, and never counts as a score.

    score() ──▶ waiting ──▶ a free process takes its share ──▶ answers come back one by one ──▶ Score
                   ▲                        │
                   └── not begun: returned, not charged;  failed: charged, and tried again while retries remain

A call is one function on one completion. Its deadline runs from the answer before it, so a call late in a batch is not
charged for the calls ahead of it.
"""

import asyncio
import itertools
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from ..broker.errors import ArealError, RewardError
from . import frames
from .config import RewardsConfig
from .reward import Score, Value, checked, combine, short_names
from .worker import Worker

MAX_BATCH = 32
START_TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """What a workflow needs of the rewards."""

    async def score(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """The reward of a completion, given its row of the dataset; raises RewardError if it cannot be had."""


@dataclass(eq=False, slots=True)
class _Call:
    id: int
    name: str
    frame: bytes
    value: asyncio.Future[Value]
    num_failures: int = 0


class RewardPool:
    """A Scorer over `config.workers` processes; they live from start() to stop(), on the loop that called start()."""

    def __init__(self, config: RewardsConfig, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._config = config
        self._names = [function.name for function in config.functions]
        self._part_names = short_names(self._names)
        functions = [(function.name, function.kwargs) for function in config.functions]
        self._workers = [Worker(functions, start_timeout_s) for _ in range(config.workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._ids = itertools.count(1)
        self._open: set[_Call] = set()
        self._waiting: deque[_Call] = deque()
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        """Starts the processes; raises ConfigError or RewardError if a function cannot be loaded."""
        assert not self._tasks, "started twice"
        starts = [asyncio.ensure_future(worker.start()) for worker in self._workers]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self._workers]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def score(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """The weighted sum of all functions; raises RewardError with the cause once retries are used up."""
        if not self._tasks:
            raise RewardError("the reward pool is not running")
        calls = [self._call(index, prompt, completion, row) for index in range(len(self._names))]
        self._open.update(calls)
        self._waiting.extend(calls)
        self._arrived.set()
        try:
            values = await asyncio.gather(*(call.value for call in calls))
        finally:
            self._open.difference_update(calls)
            for call in calls:
                call.value.cancel()  # those left over when one failed or the caller was cancelled
        return combine(self._part_names, [function.weight for function in self._config.functions], values)

    async def stop(self) -> None:
        """Kills all processes; calls still open fail with RewardError."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        self._fail_all("the reward pool was stopped")

    def _call(self, index: int, prompt: str, completion: str, row: dict[str, Any]) -> _Call:
        call, value = next(self._ids), asyncio.get_running_loop().create_future()
        return _Call(call, self._names[index], frames.pack([call, index, prompt, completion, row]), value)

    async def _serve(self, worker: Worker) -> None:
        while True:
            batch = await self._take()
            try:
                if not worker.alive:
                    await worker.start()
                worker.send(call.frame for call in batch)
                while batch:
                    self._settle(batch[0], *await worker.receive(self._config.timeout_s))
                    batch.popleft()
            except ArealError as failure:  # the process is lost, and with it the first call of what is left
                self._fail(batch.popleft(), str(failure))
                self._waiting.extendleft(reversed(batch))
                self._arrived.set()
                await self._replace(worker, failure)

    async def _take(self) -> deque[_Call]:
        """A fair share of the waiting calls: few at a time when there are few, so that no process idles."""
        while True:
            share = -(-len(self._waiting) // self._config.workers)
            taken = [self._waiting.popleft() for _ in range(min(share, MAX_BATCH))]
            if batch := deque(call for call in taken if not call.value.done()):
                return batch
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()

    async def _replace(self, worker: Worker, failure: ArealError) -> None:
        logger.warning("reward process replaced: %s", failure)
        try:
            await worker.start()
        except ArealError as error:  # tried again with the next call, which is charged for it
            logger.warning("%s", error)

    def _settle(self, call: _Call, answered: int, kind: str, value: Any) -> None:
        if answered != call.id or kind not in (frames.VALUE, frames.ERROR):
            raise RewardError(f"the process answered {kind} to call {answered}, not call {call.id}")
        if kind == frames.ERROR:
            self._fail(call, str(value))
        elif not call.value.done():
            call.value.set_result(checked(call.name, value))

    def _fail(self, call: _Call, cause: str) -> None:
        """Queues the call again, or gives it up."""
        call.num_failures += 1
        if call.value.done():
            return
        if call.num_failures <= self._config.retries:
            self._waiting.append(call)
            self._arrived.set()
            return
        times = "once" if call.num_failures == 1 else f"{call.num_failures} times"
        call.value.set_exception(RewardError(f"reward {call.name!r} failed {times}, lastly: {cause}"))

    def _fail_all(self, cause: str) -> None:
        self._waiting.clear()
        for call in self._open:
            if not call.value.done():
                call.value.set_exception(RewardError(f"reward {call.name!r}: {cause}"))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Leaves no call waiting for a task that a bug has ended."""
        if not task.cancelled():
            logger.error("the reward pool broke", exc_info=task.exception())
            self._tasks = [other for other in self._tasks if other is not task]
            self._fail_all(f"the reward pool broke: {task.exception()!r}")
