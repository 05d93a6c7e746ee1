"""The rollout worker: leases prompts, lets a workflow answer them, and completes the groups, until told to leave or drain.

lease ─▶ wait for weights ≥ min_version ─▶ workflow (generate, score) ─▶ complete
  │                                             │ fails
  └────────── renewed while it runs             └─▶ handed back, tried again, at last dead-lettered
"""

import asyncio
import contextlib
import logging
import time
import traceback
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..broker.bulletin import DRAIN, LEAVE, RUN, TOLD, Bulletin
from ..broker.config import BrokerConfig
from ..broker.errors import EngineDied
from ..broker.rollcall import Activity
from ..broker.tickets import Lease, Tickets
from ..broker.trajectory import Group
from .config import RolloutConfig
from .engine import Engine
from .follower import WeightFollower
from .workflow import Workflow

logger = logging.getLogger(__name__)

LEASE_WAIT_S = 0.2
TICK_S = 0.5
REPORT_EVERY_S = 1.0
MAX_EVENT = 500
ORDERS = (RUN, LEAVE, DRAIN)


@dataclass(frozen=True)
class Served:
    """A lane's tickets and the sequences that each of its prompts asks for."""

    tickets: Tickets
    group_size: int


@dataclass(frozen=True)
class Parts:
    """What a worker is assembled from. The lanes are served in order: all that the first has, then the next.

    `counters` is what the rewards have counted so far; they go on counting there.
    """

    engine: Engine
    workflow: Workflow[Any]
    follower: WeightFollower
    lanes: tuple[Served, ...]
    bulletin: Bulletin
    activity: Activity = field(default_factory=Activity)
    counters: Mapping[str, float] = field(default_factory=dict)


class RolloutWorker:
    """Runs on one event loop; calls to the broker are made in threads beside it."""

    def __init__(self, name: str, parts: Parts, rollout: RolloutConfig, broker: BrokerConfig) -> None:
        self._name = name
        self._parts = parts
        self._max_sequences = rollout.max_concurrent
        self._renew_every_s = min(TICK_S, broker.lease_s / 4)
        self._held: dict[asyncio.Task[None], tuple[Tickets, Lease]] = {}
        self._settling: set[tuple[Tickets, str]] = set()  # entries whose lease ends because this worker ends it
        self._reviving = asyncio.Lock()
        self._lives = 0
        self._order = RUN
        self._meter = Meter(name, parts.counters)

    async def run(self) -> None:
        """Work until told to leave, and finish what is under way; or to drain, and hand it back. Any other end is an exception."""
        parts = self._parts
        await parts.engine.start()
        try:
            await parts.follower.reload()
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(loop) for loop in (self._follow(), self._keep_leases(), self._report())]
                await self._lease_until_told(tasks)
                await self._finish()
                unfinished = dict(self._held)
                for task in [*background, *unfinished]:
                    task.cancel()
            await self._hand_back(unfinished.values())
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            await parts.engine.stop()

    async def _lease_until_told(self, tasks: asyncio.TaskGroup) -> None:
        await self._listen()
        while self._order == RUN:
            room = self._max_sequences - sum(lease.prompt.group_size for _, lease in self._held.values())
            idle = room <= 0 or self._reviving.locked()  # starting an engine stops the loop for longer than a lease
            leased = [] if idle else await asyncio.to_thread(self._lease, room)
            for tickets, lease in leased:
                if any(of is tickets and lease.entry == held.entry for of, held in self._held.values()):
                    continue  # its own, reclaimed because this process stood still for longer than a lease
                task = tasks.create_task(self._serve(tickets, lease))
                self._held[task] = (tickets, lease)
                task.add_done_callback(lambda done: self._held.pop(done, None))
            if not leased and self._held:
                await asyncio.wait(self._held, return_when=asyncio.FIRST_COMPLETED, timeout=LEASE_WAIT_S)
            elif idle:
                await asyncio.sleep(LEASE_WAIT_S)

    async def _finish(self) -> None:
        """Of a worker that leaves: until it holds nothing any more, or is told to drain."""
        while self._held and self._order == LEAVE:
            await asyncio.wait(self._held, return_when=asyncio.FIRST_COMPLETED, timeout=LEASE_WAIT_S)

    def _lease(self, room: int) -> list[tuple[Tickets, Lease]]:
        *urgent, patient = self._parts.lanes
        for served in urgent:
            if leases := served.tickets.lease(self._name, count=-(-room // served.group_size), timeout_s=0):
                return [(served.tickets, lease) for lease in leases]
        count = -(-room // patient.group_size)
        return [
            (patient.tickets, lease) for lease in patient.tickets.lease(self._name, count=count, timeout_s=LEASE_WAIT_S)
        ]

    async def _serve(self, tickets: Tickets, lease: Lease) -> None:
        life = self._lives
        try:
            await self._parts.follower.at_least(lease.prompt.min_version)
            started_at = time.time()
            with self._meter.busy():
                trajectories = await self._parts.workflow.run(lease.prompt, self._parts.engine)
            group = Group(lease.prompt.id, tuple(trajectories), self._name, started_at, time.time())
            self._settling.add((tickets, lease.entry))
            if await asyncio.to_thread(tickets.complete, lease, group):
                self._meter.count(group)
                self._parts.activity.mark(self._parts.follower.version)
            else:
                logger.info("prompt %d was already completed by another worker", lease.prompt.id)
        except Exception as error:
            died = _engine_died(error)
            if died and life == self._lives:
                self._parts.follower.forget()  # so that no other prompt is tried on it meanwhile
            self._settling.add((tickets, lease.entry))
            again, text = await self._fail(tickets, lease, error)
            if died:
                await self._revive(life)
            if not (died and again):
                await self._tell(text, "warning" if again else "error")
        finally:
            self._settling.discard((tickets, lease.entry))

    async def _fail(self, tickets: Tickets, lease: Lease, error: Exception) -> tuple[bool, str]:
        """Hand back or bury a prompt; returns whether it will be tried again, and what a person should know."""
        self._meter.retries += 1
        cause = "".join(traceback.format_exception(error))
        again = await asyncio.to_thread(tickets.fail, self._name, lease, cause)
        fate = "it will be tried again" if again else "it is now a dead letter"
        logger.warning(
            "prompt %d failed at attempt %d, %s: %s", lease.prompt.id, lease.attempt, fate, error, extra=TOLD
        )
        return again, f"{self._name}: prompt {lease.prompt.id} failed at attempt {lease.attempt}, {fate}: {error}"

    async def _revive(self, life: int) -> None:
        """Start the engine again, once for all the requests that died with it."""
        async with self._reviving:
            if life != self._lives or self._order == DRAIN:
                return
            self._lives += 1
            logger.warning("the engine died; starting it again", extra=TOLD)
            await self._tell(f"{self._name}: the engine died; starting it again", "warning")
            await self._parts.engine.stop()
            await self._parts.engine.start()
            await self._parts.follower.reload()

    async def _follow(self) -> None:
        while True:
            life = self._lives
            try:
                await self._parts.follower.follow()
            except EngineDied as error:
                logger.warning("%s", error)
                await self._revive(life)

    async def _keep_leases(self) -> None:
        """Renew what is held, drop what was lost, and listen for orders."""
        while True:
            await asyncio.sleep(self._renew_every_s)
            for tickets in [served.tickets for served in self._parts.lanes]:
                held = {lease.entry: task for task, (of, lease) in self._held.items() if of is tickets}
                leases = [lease for of, lease in self._held.values() if of is tickets]
                for entry in await asyncio.to_thread(tickets.renew, self._name, leases):
                    if not held[entry].done() and (tickets, entry) not in self._settling:
                        logger.warning("lost the lease of entry %s; its answers are dropped", entry)
                        held[entry].cancel()
            await self._listen()

    async def _listen(self) -> None:
        """Hear what to do; an order to leave or to drain stands, whatever a Redis that came back older says after it."""
        order = await asyncio.to_thread(self._parts.bulletin.ordered_of, self._name)
        self._order = max(self._order, order, key=ORDERS.index)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._parts.activity.version = self._parts.follower.version
            await self._post(self._meter.record(self._parts.follower, in_flight=len(self._held)))

    async def _tell(self, text: str, level: str) -> None:
        await self._post({"kind": "event", "time": time.time(), "level": level, "text": text[:MAX_EVENT]})

    async def _post(self, record: dict[str, Any]) -> None:
        await asyncio.to_thread(self._parts.bulletin.report, record)

    async def _hand_back(self, unfinished: Iterable[tuple[Tickets, Lease]]) -> None:
        for tickets, lease in unfinished:
            await asyncio.to_thread(tickets.release, self._name, lease)
        await self._post(self._meter.record(self._parts.follower, in_flight=0))


def _engine_died(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(EngineDied) is not None
    return isinstance(error, EngineDied)


def _first(error: BaseException) -> BaseException:
    """The first of the errors that ended the tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Meter:
    """Counts what a worker does, since its process began."""

    def __init__(self, worker: str, counters: Mapping[str, float]) -> None:
        self._worker = worker
        self._counters = counters
        self._incarnation = uuid.uuid4().hex[:8]
        self._began = time.monotonic()
        self._serving = 0
        self._busy_since = 0.0
        self._busy_s = 0.0
        self._tokens = 0
        self._groups = 0
        self.retries = 0

    @contextlib.contextmanager
    def busy(self) -> Any:
        """The worker is busy while at least one group is inside."""
        if self._serving == 0:
            self._busy_since = time.monotonic()
        self._serving += 1
        try:
            yield
        finally:
            self._serving -= 1
            if self._serving == 0:
                self._busy_s += time.monotonic() - self._busy_since

    def count(self, group: Group[Any]) -> None:
        self._tokens += sum(trajectory.num_actions for trajectory in group.trajectories)
        self._groups += 1

    def record(self, follower: WeightFollower, *, in_flight: int) -> dict[str, Any]:
        """What is reported of this worker; totals since its process began."""
        now = time.monotonic()
        return {
            "kind": "worker",
            "time": time.time(),
            "worker": self._worker,
            "incarnation": self._incarnation,
            "version": follower.version,
            "tokens_generated": self._tokens,
            "groups_completed": self._groups,
            "busy_s": self._busy_s + (now - self._busy_since if self._serving else 0.0),
            "alive_s": now - self._began,
            "weight_updates": follower.updates,
            "update_pause_ms": [1000 * pause_s for pause_s in follower.drain_pauses()],
            "in_flight": in_flight,
            "retries": self.retries,
            "reward_counters": dict(self._counters),
        }
