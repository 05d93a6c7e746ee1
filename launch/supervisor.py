"""Places the roles with Ray, starts again those that die, and gives up on a run whose roles keep dying."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..broker.bulletin import DRAIN, LEAVE
from ..broker.errors import ArealError, ConfigError, ModelError, TooManyDeadLetters
from ..broker.rollcall import Heard
from .actor import RoleActor
from .company import Company, Placed
from .config import ClusterConfig
from .gpus import GpuShares, deal
from .roles import LEARNER, ROLLOUT, RoleSpec
from .room import lacking

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 * 2**20
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 would let anything else on the machine starve the roles
}
BACKOFF_S = 1.0
PLACE_TIMEOUT_S = 180.0
MAX_PER_CORE = 4
"""Workers of a run for each core, where only one machine is there for it."""

HURRY_S = 15.0
"""How long a worker that is to leave at once may take, from when it is told so."""

STEADY_S = 120.0
"""Roles that have lived for so long before one died start with a clean count, if they have got something done."""

FATAL = (ConfigError, ModelError, TooManyDeadLetters)
"""Errors that another try cannot mend."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What actors of the roles' own take of the cluster."""

    cpus: float = 0.0
    gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)

    def times(self, count: int) -> "Beside":
        """So often the same."""
        return Beside(self.cpus * count, self.gpus * count, {name: count * each for name, each in self.custom.items()})


NOTHING = Beside()


class Supervisor:
    """Owns the actors of a run. What a person should be told is gathered for `drain_events`."""

    def __init__(
        self,
        config: ClusterConfig,
        companies: Sequence[Sequence[RoleSpec]],
        *,
        gpus_per_engine: int,
        beside: Beside = NOTHING,
        heard: Callable[[], Sequence[Heard]],
    ) -> None:
        """
        companies: the roles, those together that live and die together; the first of these leads the others.
        beside: what the roles will have Ray place besides, for which there has to be room.
        heard: the roll-call, which tells who has done some work.
        """
        self._config = config
        self._companies = [Company([Placed(spec) for spec in specs]) for specs in companies]
        self._gpus_per_engine = gpus_per_engine
        self._beside = beside
        self._gpus = GpuShares()
        self._heard = heard
        self._events: list[tuple[str, str]] = []
        self._ray: Any = None
        self.given_up = ""
        """Which of the workers that were added was given up last, and why."""

    def start(self) -> None:
        """Start or join Ray and place every role."""
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self._config.address is None:
            options |= {
                "num_cpus": max(len(self._placed) + math.ceil(self._beside.cpus), os.cpu_count() or 1),
                "resources": dict(self._beside.custom),
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
        self._gpus = self._deal()
        if self._num_ranks > 1:
            self._check_nodes()
        for company in self._companies:
            self._place(company)

    def tick(self) -> None:
        """Look after the roles once. Raises ArealError when one cannot be kept alive."""
        for company in list(self._companies):
            if company.leaving_at is not None:
                self._see_off(company)
            elif company.restart_at is None and company.added:
                self._keep_if_possible(company)
            elif company.restart_at is None:
                self._look_after(company)
            elif time.monotonic() >= company.restart_at:
                self._place(company)

    def is_done(self, name: str) -> bool:
        """Whether the role has ended by itself and well."""
        return any(placed.done for placed in self._placed if placed.spec.name == name)

    def all_done(self) -> bool:
        return all(company.done for company in self._companies)

    def drain_events(self) -> list[tuple[str, str]]:
        """(level, text) of what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Kill what still runs, and end the Ray that was started here."""
        if self._ray is None:
            return
        for company in self._companies:
            self._kill(company)
        self._ray.shutdown()
        self._ray = None

    # Workers that come and go

    def workers(self) -> list[str]:
        """The rollout workers that work, or soon will, and are to stay; the oldest first."""
        return [each.leader.spec.name for each in self._of(ROLLOUT) if each.leaving_at is None and not each.leader.done]

    def leaving(self) -> dict[str, str]:
        """Those that are to leave, and what they are to be told: after cluster.drain_s to hand back what they hold."""
        late = time.monotonic() - self._config.drain_s
        told = [(each.leader.spec.name, each.leaving_at) for each in self._of(ROLLOUT) if each.leaving_at is not None]
        return {name: DRAIN if at < late else LEAVE for name, at in told}

    def add(self, spec: RoleSpec) -> None:
        """Place one more worker. If it cannot be kept alive or placed, it is given up, and the run goes on."""
        company = Company([Placed(spec)], added=True)
        self._companies.append(company)
        self._place(company)

    def let_go(self, name: str) -> None:
        """From now on a worker is among those that are leaving, until it has ended; it is not started again."""
        for company in self._of(ROLLOUT):
            if company.leader.spec.name == name and company.leaving_at is None:
                company.leaving_at = time.monotonic()

    def room(self, count: int, each: Beside) -> str:
        """What so many more workers, and what `each` has Ray place besides, would lack; empty if there is room."""
        share = self._gpus.rollout
        local = self._config.address is None
        wanted = {"CPU": each.cpus + (0 if local else 1), "GPU": each.gpus + share, **each.custom}
        cores = os.cpu_count() or 1
        return lacking(
            {name: count * amount for name, amount in wanted.items()},
            self._ray.available_resources(),
            workers=len(self.workers()) + count,
            most=MAX_PER_CORE * cores if local else None,
        )

    def _of(self, role: str) -> list[Company]:
        return [company for company in self._companies if company.leader.spec.role == role]

    def _see_off(self, company: Company) -> None:
        """Look after a worker that is to leave, until it is gone, however it ended."""
        assert company.leaving_at is not None
        for placed in company.running():
            if self._ray.wait([placed.result], timeout=0)[0]:
                self._end(placed)
            elif self._is_waiting(placed) or time.monotonic() > company.leaving_at + self._config.drain_s + HURRY_S:
                self._kill(company)
        if not company.running():
            self._forget(company)
            self._events.append(("info", f"{company.leader.spec.name} has left"))

    def _is_waiting(self, placed: Placed) -> bool:
        """Whether Ray has not found a place for it yet."""
        return placed.ready is not None and not self._ray.wait([placed.ready], timeout=0)[0]

    def _keep_if_possible(self, company: Company) -> None:
        try:
            self._look_after(company)
        except ArealError as error:
            self._forget(company)
            self.given_up = f"{company.leader.spec.name} is given up: {error}"
            self._events.append(("error", f"{self.given_up}\n  the run goes on without it"))

    def _forget(self, company: Company) -> None:
        """Leave nothing of it on the cluster, nor here."""
        self._kill(company)
        self._companies.remove(company)

    # Where roles go

    @property
    def _placed(self) -> list[Placed]:
        return [placed for company in self._companies for placed in company.members]

    @property
    def _num_ranks(self) -> int:
        return sum(placed.spec.role == LEARNER for placed in self._placed)

    def _deal(self) -> GpuShares:
        """The GPUs of a role of each kind. Raises ConfigError if there are too few."""
        ranks = self._num_ranks
        workers = len(self._placed) - ranks
        if self._config.autoscale is not None:
            workers = max(workers, self._config.autoscale.max)
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        left = max(0, gpus - math.ceil(self._beside.gpus))
        if gpus and not left:
            raise ConfigError(
                f"the cluster has {gpus} GPUs, and the rewards alone want {self._beside.gpus:g} (rewards.resources.gpus, for "
                "each of rewards.workers): lower these, or take a cluster with more GPUs (cluster.address)"
            )
        return deal(left, ranks=ranks, workers=workers, per_engine=self._gpus_per_engine)

    def _check_nodes(self) -> None:
        """Raises ConfigError if ranks on different nodes could not reach each other."""
        hosts = sorted({node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]})
        alone = [host for host in hosts if host == "::1" or host.startswith("127.")]
        if alone and len(hosts) > 1:
            raise ConfigError(
                f"the Ray cluster has the nodes {', '.join(hosts)}, and to others {alone[0]} is their own loopback: ranks "
                f"there and elsewhere would not meet (learner.ranks is {self._num_ranks}). Start that node with "
                "ray start --node-ip-address and an address that the others reach, or set learner.ranks to 1"
            )

    def _place(self, company: Company) -> None:
        company.placed_at, company.restart_at = time.monotonic(), None
        for placed in company.members:
            gpus = self._gpus_of(placed.spec)
            cpus = 0 if company.added and self._config.address is None else 1  # a Ray of our own has cores for no more
            actor_class = self._ray.remote(RoleActor)
            placed.actor = actor_class.options(num_cpus=cpus, num_gpus=gpus, max_restarts=0).remote(placed.spec)
            placed.ready = placed.actor.__ray_ready__.remote()
            placed.result = placed.actor.run.remote()
            placed.done, placed.error = False, None

    def _gpus_of(self, spec: RoleSpec) -> float:
        return self._gpus.learner if spec.role == LEARNER else self._gpus.rollout

    def _await_place(self, placed: Placed, since: float) -> None:
        """Raises ArealError for a role that the cluster has had no room for."""
        if self._ray.wait([placed.ready], timeout=0)[0]:
            placed.ready = None
        elif time.monotonic() - since > PLACE_TIMEOUT_S:
            raise ArealError(
                f"Ray found no place for {placed.spec.name} within {PLACE_TIMEOUT_S:g} s; it needs 1 CPU and "
                f"{self._gpus_of(placed.spec):g} GPUs, and the cluster has {self._ray.available_resources()} left"
            )

    # How they end

    def _look_after(self, company: Company) -> None:
        for placed in company.running():
            if self._ray.wait([placed.result], timeout=0)[0]:
                self._end(placed)
            elif placed.ready is not None:
                self._await_place(placed, company.placed_at)
        culprit = None if company.leader.done else company.culprit(time.monotonic())
        if culprit is not None and culprit.error is not None:
            self._plan_restart(company, culprit.spec, culprit.error)

    def _end(self, placed: Placed) -> None:
        """Note how a role ended."""
        try:
            self._ray.get(placed.result)
            placed.done = True
        except Exception as error:
            placed.error, placed.failed_at = getattr(error, "cause", None) or error, time.monotonic()
        placed.actor = placed.result = placed.ready = None

    def _plan_restart(self, company: Company, spec: RoleSpec, cause: Exception) -> None:
        """End all of a company, whose member that is to blame ended on this, and have them placed again in a while."""
        if isinstance(cause, FATAL):
            raise cause
        said = str(cause) if isinstance(cause, ArealError) else f"{type(cause).__name__}: {_first_line(cause)}"
        several = len(company.members) > 1
        if self._is_steady(company):
            company.restarts = 0
        if company.restarts >= self._config.max_restarts:
            who = f"ranks of the {spec.role}" if several else spec.name
            last = f"the last time {spec.name}, " if several else ""
            raise ArealError(
                f"{who} died {company.restarts + 1} times in a row: {last}{said}\n  its log: {spec.log}"
            ) from cause
        self._kill(company)
        company.restarts += 1
        delay_s = BACKOFF_S * 2 ** (company.restarts - 1)
        company.restart_at = time.monotonic() + delay_s
        what = "all its ranks" if several else "it"
        self._events.append(("warning", f"{spec.name} died ({said}); starting {what} again in {delay_s:g} s"))

    def _is_steady(self, company: Company) -> bool:
        """Whether it has lived for a while, and its leader has done something since it was placed."""
        lived_s = time.monotonic() - company.placed_at
        return lived_s > STEADY_S and any(
            heard.ago_s < lived_s and heard.member.active_at > heard.member.started_at
            for heard in self._heard()
            if heard.member.name == company.leader.spec.name
        )

    def _kill(self, company: Company) -> None:
        for placed in company.running():
            self._ray.kill(placed.actor)
            placed.actor = placed.result = placed.ready = None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
