"""Places the roles with Ray, starts again those that die, and gives up on a run whose roles keep dying."""

import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from ..broker.errors import ArealError, ConfigError, ModelError, TooManyDeadLetters
from .actor import RoleActor
from .config import ClusterConfig
from .roles import LEARNER, RoleSpec

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 * 2**20
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 would let anything else on the machine starve the roles
}
BACKOFF_S = 1.0
PLACE_TIMEOUT_S = 180.0
STEADY_S = 120.0
"""A role that has worked for so long before it died starts with a clean count."""

FATAL = (ConfigError, ModelError, TooManyDeadLetters)
"""Errors that another try cannot mend."""


@dataclass(slots=True)
class Placed:
    """A role that runs, or waits to be started again."""

    spec: RoleSpec
    actor: Any = None
    result: Any = None
    ready: Any = None
    started_at: float = 0.0
    restarts: int = 0
    restart_at: float = 0.0
    done: bool = False


class Supervisor:
    """Owns the actors of a run. What a person should be told is gathered for `drain_events`."""

    def __init__(self, config: ClusterConfig, roles: list[RoleSpec], *, gpus_per_engine: int) -> None:
        self._config = config
        self._placed = [Placed(spec) for spec in roles]
        self._gpus_per_engine = gpus_per_engine
        self._events: list[tuple[str, str]] = []
        self._ray: Any = None

    def start(self) -> None:
        """Start or join Ray and place every role."""
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self._config.address is None:
            options |= {
                "num_cpus": max(len(self._placed), os.cpu_count() or 1),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
                "address": "local",  # not what RAY_ADDRESS may say
            }
        else:
            options["address"] = self._config.address
        try:
            ray.init(**options)
        except Exception as error:
            raise ArealError(f"Ray did not start (cluster.address is {self._config.address}): {error}") from error
        self._ray = ray
        for placed in self._placed:
            self._place(placed)

    def tick(self) -> None:
        """Look after the roles once. Raises ArealError when one cannot be kept alive."""
        for placed in self._placed:
            if placed.done:
                continue
            if placed.actor is None:
                if time.monotonic() >= placed.restart_at:
                    self._place(placed)
            elif self._ray.wait([placed.result], timeout=0)[0]:
                self._end(placed)
            elif placed.ready is not None:
                self._await_place(placed)

    def is_done(self, name: str) -> bool:
        """Whether the role has ended by itself and well."""
        return any(placed.done for placed in self._placed if placed.spec.name == name)

    def all_done(self) -> bool:
        return all(placed.done for placed in self._placed)

    def drain_events(self) -> list[tuple[str, str]]:
        """(level, text) of what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Kill what still runs, and end the Ray that was started here."""
        if self._ray is None:
            return
        for placed in self._placed:
            if placed.actor is not None:
                self._ray.kill(placed.actor)
        self._ray.shutdown()
        self._ray = None

    def _place(self, placed: Placed) -> None:
        gpus = self._gpus(placed.spec)
        actor_class = self._ray.remote(RoleActor)
        placed.actor = actor_class.options(num_cpus=1, num_gpus=gpus, max_restarts=0).remote(placed.spec)
        placed.ready = placed.actor.__ray_ready__.remote()
        placed.result = placed.actor.run.remote()
        placed.started_at = time.monotonic()

    def _await_place(self, placed: Placed) -> None:
        """Raises ArealError for a role that the cluster has had no room for."""
        if self._ray.wait([placed.ready], timeout=0)[0]:
            placed.ready = None
        elif time.monotonic() - placed.started_at > PLACE_TIMEOUT_S:
            raise ArealError(
                f"Ray found no place for {placed.spec.name} within {PLACE_TIMEOUT_S:g} s; it needs 1 CPU and "
                f"{self._gpus(placed.spec):g} GPUs, and the cluster has {self._ray.available_resources()} left"
            )

    def _gpus(self, spec: RoleSpec) -> float:
        """GPUs of a role: its own if there are enough, else equal shares of what there is."""
        available = float(self._ray.cluster_resources().get("GPU", 0))
        wanted = sum(self._own_gpus(placed.spec) for placed in self._placed)
        own = self._own_gpus(spec)
        return float(own) if available >= wanted else available / len(self._placed)

    def _own_gpus(self, spec: RoleSpec) -> int:
        return 1 if spec.role == LEARNER else self._gpus_per_engine

    def _end(self, placed: Placed) -> None:
        """Note how a role ended; plan its restart unless it ended well."""
        try:
            self._ray.get(placed.result)
            placed.done = True
        except Exception as error:
            self._plan_restart(placed, error)
        placed.actor = placed.result = placed.ready = None

    def _plan_restart(self, placed: Placed, error: Exception) -> None:
        cause = getattr(error, "cause", None) or error
        name = placed.spec.name
        said = str(cause) if isinstance(cause, ArealError) else f"{type(cause).__name__}: {_first_line(cause)}"
        if isinstance(cause, FATAL):
            raise cause
        if time.monotonic() - placed.started_at > STEADY_S:
            placed.restarts = 0
        if placed.restarts >= self._config.max_restarts:
            raise ArealError(
                f"{name} died {placed.restarts + 1} times in a row: {said}\n  its log: {placed.spec.log}"
            ) from cause
        placed.restarts += 1
        delay_s = BACKOFF_S * 2 ** (placed.restarts - 1)
        placed.restart_at = time.monotonic() + delay_s
        self._events.append(("warning", f"{name} died ({said}); starting it again in {delay_s:g} s"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
