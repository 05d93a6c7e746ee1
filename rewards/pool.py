"""Rewards computed in processes apart: one that hangs, crashes or leaks harms no other, and never counts as a score.

    score() ──▶ waiting ──▶ a free process ──▶ Score
                   ▲              │
                   └── failed: charged, and tried again while retries remain; of several under way: not charged, then alone

A call is one function on one completion, or on all answers of a group. A process has one of them at a time, or several
where functions are async, and of these each its own deadline.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..broker.errors import ArealError, RewardError
from . import counters, frames
from .config import RewardsConfig
from .grading import Answer, Grading
from .pictures import to_wire
from .remote import RemoteWorker
from .reward import TEXTS, Score, all_checked, checked, combine, short_names
from .worker import Worker, WornOut

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TOGETHER = 32
"""Calls that one process has under way, of functions that are async."""
LATE_S = 1.0
"""How much longer such a process may take than the deadline that it keeps by itself."""

logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """What a workflow needs of the rewards."""

    async def score(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """The reward of a completion, given its row of the dataset; raises RewardError if it cannot be had."""

    def grading(self, prompt: str, row: dict[str, Any], size: int) -> Grading:
        """What scores the answers of a group of that size, each as soon as it is there."""

    async def score_images(self, prompt: str, images: "Sequence[Image]", row: dict[str, Any]) -> list[Score]:
        """The reward of each image of a group; raises RewardError if one cannot be had."""


@dataclass(eq=False, slots=True)
class _Call:
    id: int
    name: str
    frame: bytes
    num_answers: int | None
    value: asyncio.Future[Any]
    num_failures: int = 0
    alone: bool = False


def _worker_of(config: RewardsConfig) -> Worker | RemoteWorker:
    functions = [(function.name, function.kwargs) for function in config.functions]
    if config.where == "local":
        return Worker(functions, config.start_timeout_s, memory_mib=config.memory_mib, timeout_s=config.timeout_s)
    return RemoteWorker(functions, config.start_timeout_s, memory_mib=config.memory_mib, resources=config.resources)


class RewardPool:
    """A Scorer over `config.workers` processes; they live from start() to stop(), on the loop that called start().

    `counters` is what the functions have counted so far, in all processes together.
    """

    def __init__(self, config: RewardsConfig) -> None:
        self._config = config
        self._names = [function.name for function in config.functions]
        self._part_names = short_names(self._names)
        self._weights = [function.weight for function in config.functions]
        self._sources = [function.sources for function in config.functions]
        self._workers = [_worker_of(config) for _ in range(config.workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._ids = itertools.count(1)
        self._open: set[_Call] = set()
        self._waiting: deque[_Call] = deque()
        self._arrived = asyncio.Event()
        self._of_one: list[int] = []
        self._of_groups: list[int] = []
        self.counters: dict[str, float] = {}

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
        takes = self._workers[0].takes
        self._of_groups = [place for place, subject in enumerate(takes) if subject == TEXTS]
        self._of_one = [place for place, subject in enumerate(takes) if subject != TEXTS]

    async def score(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """The weighted sum of all functions; raises RewardError with the cause once retries are used up."""
        if self.sees_group(row):
            raise RewardError(
                f"reward {self._names[self._of_groups[0]]!r} looks at all answers of a group (it takes {TEXTS!r}): the "
                "workflow has to score them by scorer.grading(prompt, row, size).score(completion)"
            )
        return await self.of_one(prompt, completion, row)

    def grading(self, prompt: str, row: dict[str, Any], size: int) -> Grading:
        """See Scorer."""
        return Grading(self, prompt, row, size)

    async def score_images(self, prompt: str, images: "Sequence[Image]", row: dict[str, Any]) -> list[Score]:
        """Likewise of each of a group's images."""
        asked = self._asked(range(len(self._names)), row)
        return self._combined(asked, await self._values(asked, prompt, to_wire(images), row, num_answers=len(images)))

    def sees_group(self, row: dict[str, Any]) -> bool:
        """See Graders."""
        return bool(self._asked(self._of_groups, row))

    async def of_one(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        """See Graders."""
        asked = self._asked(self._of_one, row)
        values = await self._values(asked, prompt, completion, row)
        return self._combined(asked, [[value] for value in values])[0] if asked else Score(0.0, {})

    async def of_all(self, prompt: str, answers: list[Answer], row: dict[str, Any]) -> list[Score]:
        """See Graders."""
        asked = self._asked(self._of_groups, row)
        return self._combined(asked, await self._values(asked, prompt, answers, row, num_answers=len(answers)))

    def _asked(self, places: Iterable[int], row: dict[str, Any]) -> list[int]:
        """Those of the functions that such a row is for."""
        return [place for place in places if not self._sources[place] or row.get("source") in self._sources[place]]

    def _combined(self, places: Sequence[int], values: Sequence[Sequence[Any]]) -> list[Score]:
        """The scores of answers, of what each function said of each of them."""
        names, weights = [self._part_names[place] for place in places], [self._weights[place] for place in places]
        return [combine(names, weights, of_one) for of_one in zip(*values, strict=True)]

    async def _values(
        self, places: Sequence[int], prompt: str, answered: Any, row: dict[str, Any], *, num_answers: int | None = None
    ) -> list[Any]:
        """What each of these functions says."""
        if not self._tasks:
            raise RewardError("the reward pool is not running")
        calls = [self._call(place, prompt, answered, row, num_answers) for place in places]
        self._open.update(calls)
        self._waiting.extend(calls)
        self._arrived.set()
        try:
            return await asyncio.gather(*(call.value for call in calls))
        finally:
            self._open.difference_update(calls)
            for call in calls:
                call.value.cancel()  # those left over when one failed or the caller was cancelled

    async def stop(self) -> None:
        """Kills all processes; calls still open fail with RewardError."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        self._fail_all("the reward pool was stopped")

    def _call(self, index: int, prompt: str, answered: Any, row: dict[str, Any], num_answers: int | None) -> _Call:
        call, value = next(self._ids), asyncio.get_running_loop().create_future()
        frame = frames.pack([call, index, prompt, answered, row], max_bytes=frames.MAX_CALL_BYTES)
        return _Call(call, self._names[index], frame, num_answers, value)

    async def _serve(self, worker: Worker | RemoteWorker) -> None:
        """Keep a process at work: on one call or, where its functions wait for others, on many together."""
        under_way: dict[int, _Call] = {}
        answer: asyncio.Task[Any] | None = None
        try:
            while True:
                taken = self._take(under_way, most=MAX_TOGETHER if worker.together else 1)
                if not under_way:
                    await self._more()
                    continue
                try:
                    if taken:
                        await self._send(worker, taken, alone=len(taken) == len(under_way))
                    late_s = LATE_S if worker.together else 0.0
                    answer = answer or asyncio.create_task(worker.receive(self._config.timeout_s, late_s=late_s))
                    suspect = any(call.alone for call in under_way.values())
                    room = worker.together and not suspect and len(under_way) < MAX_TOGETHER
                    await self._answer_or_more(answer, room=room)
                    if answer.done():
                        found, counted = answer.result()
                        answer = None
                        counters.add(self.counters, counted)
                        self._settle(under_way, *found)
                except ArealError as failure:
                    answer = None
                    self._lose(list(under_way.values()), failure)
                    under_way.clear()
                    await self._replace(worker, failure)
        finally:
            if answer is not None:
                answer.cancel()

    async def _send(self, worker: Worker | RemoteWorker, calls: Sequence[_Call], *, alone: bool) -> None:
        """Hand over calls, to a fresh process if the old one has died and has no others."""
        if not worker.alive and alone:
            await worker.start()
        worker.send(call.frame for call in calls)

    async def _more(self) -> None:
        """Wait for calls to arrive, or for none if some are there."""
        if not self._waiting:
            self._arrived.clear()
        await self._arrived.wait()

    async def _answer_or_more(self, answer: asyncio.Task[Any], *, room: bool) -> None:
        """Wait for the answer; where there is room for more calls, for those as well."""
        if not room or (self._waiting and self._waiting[0].alone):
            await asyncio.wait({answer})
        elif self._waiting:  # other processes have the next turn
            await asyncio.sleep(0)
        else:
            more = asyncio.create_task(self._more())
            await asyncio.wait({answer, more}, return_when=asyncio.FIRST_COMPLETED)
            more.cancel()

    def _take(self, under_way: dict[int, _Call], *, most: int) -> list[_Call]:
        """Put waiting calls under way: a fair share, so that no process idles, and a suspect by itself."""
        share, taken = -(-len(self._waiting) // self._config.workers), list[_Call]()
        while self._waiting and len(under_way) < most and len(taken) < share:
            call = self._waiting[0]
            if not call.value.done():
                if under_way and (call.alone or any(other.alone for other in under_way.values())):
                    break
                under_way[call.id] = call
                taken.append(call)
            self._waiting.popleft()
        return taken

    def _lose(self, calls: Sequence[_Call], failure: ArealError) -> None:
        """Charge the loss of a process to the call that was under way, and queue it again.

        Of several nobody knows whose fault it was: each is called again alone, and none is charged.
        """
        if isinstance(failure, WornOut) or len(calls) > 1:
            for call in calls:
                call.alone = call.alone or not isinstance(failure, WornOut)
            self._waiting.extendleft(reversed(calls))
            self._arrived.set()
        else:
            for call in calls:
                self._fail(call, str(failure))

    async def _replace(self, worker: Worker | RemoteWorker, failure: ArealError) -> None:
        logger.warning("reward process replaced: %s", failure)
        try:
            await worker.start()
        except ArealError as error:  # tried again with the next call, which is charged for it
            logger.warning("%s", error)

    def _settle(self, under_way: dict[int, _Call], answered: int, kind: str, value: Any) -> None:
        if answered not in under_way or kind not in (frames.VALUE, frames.ERROR):
            raise RewardError(f"the process answered {kind} to call {answered}, not to one of {list(under_way)}")
        call = under_way.pop(answered)
        if kind == frames.ERROR:
            self._fail(call, str(value))
        elif not call.value.done():
            count = call.num_answers
            sound = checked(call.name, value) if count is None else all_checked(call.name, value, count)
            call.value.set_result(sound)

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
