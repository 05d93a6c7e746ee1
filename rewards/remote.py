"""Reward processes that Ray places: on other nodes, with GPUs of their own, whatever `rewards.resources` asks for.

    pool ─frame─▶ actor, where Ray has room ─▶ its process (worker.py) ─answer─▶ pool

The actor keeps the process as the pool keeps one of its own: at a deadline it is killed and replaced there. The actor ends with the rollout
worker that asked for it.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from ..broker.errors import ArealError, ConfigError, RewardError
from . import frames
from .config import ResourcesConfig
from .shipped import Given, runtime_env
from .worker import Worker

GRACE_S = 15.0
"""How much longer than a call the way to its actor and back may take."""

_joining = threading.Lock()


class Host:
    """The actor: one reward process on the node where Ray has put it. Its methods are called one at a time."""

    def __init__(
        self,
        functions: list[tuple[str, dict[str, Any]]],
        start_timeout_s: float,
        memory_mib: int | None,
        given: Given,
    ) -> None:
        """given: what the rollout worker was given, on its node."""
        self._worker = Worker(
            given.take(functions), start_timeout_s, memory_mib=memory_mib
        )  # one call at a time: no more deadlines

    async def start(self) -> list[str]:
        """A fresh process; returns what its functions take."""
        await self._worker.start()
        return self._worker.takes

    async def call(self, frame: bytes, timeout_s: float) -> tuple[Any, ...]:
        """The answer to a call; raises RewardError if the process is lost."""
        self._worker.send([frame])
        return await self._worker.receive(timeout_s)

    async def stop(self) -> None:
        """End the process, and what it has started."""
        await self._worker.stop()


class RemoteWorker:
    """A Worker whose process lives where Ray has room for it. Its calls go one at a time."""

    together = False

    def __init__(
        self,
        functions: list[tuple[str, dict[str, Any]]],
        start_timeout_s: float,
        *,
        memory_mib: int | None,
        resources: ResourcesConfig,
    ) -> None:
        frames.pack(functions)  # refused here if anywhere
        self._arguments = (functions, start_timeout_s, memory_mib, Given.here())
        self._start_timeout_s = start_timeout_s
        self._resources = resources
        self._calls: deque[bytes] = deque()
        self._actor: Any = None
        self.alive = False
        self.takes: list[str] = []

    async def start(self) -> None:
        """A fresh process with the functions loaded; raises ConfigError or RewardError if they cannot be."""
        self.alive = False
        self._calls.clear()
        if self._actor is None:
            self._actor = await asyncio.to_thread(self._place)
        self.takes = await self._answered(self._actor.start.remote(), self._start_timeout_s)
        self.alive = True

    def send(self, calls: Iterable[bytes]) -> None:
        """Hands over frames, which go to the actor one at a time as their answers are asked for."""
        self._calls.extend(calls)

    async def receive(self, timeout_s: float, *, late_s: float = 0.0) -> tuple[Any, ...]:
        """The next answer (call, kind, value or text); raises RewardError with the cause if the process is lost."""
        try:
            answer: tuple[Any, ...] = await self._answered(
                self._actor.call.remote(self._calls.popleft(), timeout_s), timeout_s
            )
        except ArealError:
            self.alive = False
            raise
        return answer

    async def stop(self) -> None:
        """End the process, and the actor."""
        actor, self._actor, self.alive = self._actor, None, False
        if actor is None:
            return
        import ray

        with contextlib.suppress(Exception):  # of an actor that is gone already
            async with asyncio.timeout(GRACE_S):
                await actor.stop.remote()
        ray.kill(actor)

    def _place(self) -> Any:
        """The actor, which waits for its place."""
        import ray

        _join_ray()
        wanted = self._resources
        options = {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus, "resources": wanted.custom, "max_concurrency": 1}
        return ray.remote(Host).options(**options).remote(*self._arguments)

    async def _answered(self, reference: Any, timeout_s: float) -> Any:
        """What the actor answers; its errors are those of its process."""
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                return await reference
        except TimeoutError as error:
            raise RewardError(
                f"a reward actor did not answer within {timeout_s + GRACE_S:g} s; if Ray has no place for it, it wants "
                f"{self._resources.told} (rewards.resources)"
            ) from error
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ConfigError):
                raise ConfigError(str(cause)) from error
            raise RewardError(
                str(cause) if isinstance(cause, RewardError) else f"its actor failed: {cause!r}"
            ) from error
        except RayActorError as error:
            self._actor = None
            raise RewardError(f"its actor died: {str(error).strip().partition(chr(10))[0]}") from error
        except RayError as error:
            raise RewardError(f"Ray failed: {error}") from error


def _join_ray() -> None:
    """The cluster that this process is of, by RAY_ADDRESS; raises RewardError where there is none."""
    import ray

    with _joining:
        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        try:
            ray.init(address="auto", runtime_env=runtime_env(), **options)
        except Exception as error:
            raise RewardError(f"rewards.where is ray, and no Ray cluster answers here: {error}") from error
