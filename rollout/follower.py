"""Keeps an engine on the newest weights: fetched in the background, loaded under requests in flight."""

import asyncio
import logging

from ..broker.errors import BrokerError, BrokerUnavailable, DeadlineExceeded
from ..broker.weights import Published, WeightStore
from .engine import Engine

logger = logging.getLogger(__name__)

LOOK_S = 1.0


class WeightFollower:
    """Follows the learner's versions. `version` is what the engine runs on, -1 before the first."""

    def __init__(self, store: WeightStore, engine: Engine, *, timeout_s: float) -> None:
        self._store = store
        self._engine = engine
        self._timeout_s = timeout_s
        self._loading = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._pauses_s: list[float] = []
        self._passed_over: Published | None = None
        self.version = -1
        self.updates = 0

    async def follow(self) -> None:
        """Load each new version as it appears, for ever. A version that is damaged or gone is passed over."""
        while True:
            await self._load_next(self.version)

    def forget(self) -> None:
        """The engine has lost its weights: whoever waits for a version waits until they are loaded again."""
        self.version = -1

    async def reload(self) -> None:
        """Load the newest version into an engine that has lost its own."""
        self.forget()
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        while self.version < 0:
            if asyncio.get_running_loop().time() > deadline:
                raise DeadlineExceeded(f"the learner published no weights within {self._timeout_s:g} s")
            await self._load_next(-1)

    async def at_least(self, version: int) -> None:
        """Wait until the engine runs on `version` or newer; raises DeadlineExceeded."""
        if self.version >= version:
            return
        try:
            async with asyncio.timeout(self._timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.version >= version)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"weights of version {version} did not arrive from the learner within {self._timeout_s:g} s "
                f"(the engine is on {self.version})"
            ) from error

    def drain_pauses(self) -> list[float]:
        """The pauses of the updates since the last call, in seconds."""
        pauses, self._pauses_s = self._pauses_s, []
        return pauses

    async def _load_next(self, after: int) -> None:
        """Load the newest version above `after`, waited for at most LOOK_S.

        One that was passed over before is tried again only when no newer one has come for so long.
        """
        newest = await asyncio.to_thread(self._store.wait, after, timeout_s=LOOK_S)
        if newest is not None and newest == self._passed_over:
            newest = await asyncio.to_thread(self._store.wait, newest.version, timeout_s=LOOK_S) or newest
        if newest is not None:
            await self._load(newest)

    async def _load(self, published: Published) -> None:
        """Fetch and load, nothing else being fetched meanwhile: of what was fetched, only the last is sure to stay."""
        async with self._loading:
            if published.version <= self.version:
                return
            try:
                source = await asyncio.to_thread(self._store.fetch, published)
                pause_s = await self._engine.update_weights(published.version, source)
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                if published != self._passed_over:
                    logger.warning("passing over version %d: %s", published.version, error)
                self._passed_over = published
                return
            self._pauses_s.append(pause_s)
            self.updates += 1
            async with self._changed:
                self.version = published.version
                self._changed.notify_all()
