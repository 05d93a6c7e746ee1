"""Places the roles with Ray, starts again those that die, and gives up on a run whose roles keep dying."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...broker.bulletin import DRAIN, LEAVE
from ...broker.errors import ArealError, ConfigError, ModelError, TooManyDeadLetters
from ...broker.rollcall import Heard
from ..cluster_config import ClusterConfig
from ..roles import LEARNER, ROLLOUT, RoleSpec
from .actors import Actors
from .beside import NOTHING, Beside
from .company import Company, Placed
from .gpus import GpuShares, shares
from .joining import join
from .placement import Placement
from .restarts import Restarts, is_steady
from .room import lacking
from .shipping import Shipment

MAX_PER_CORE = 4
"""Workers of a run for each core, where only one machine is there for it."""

HURRY_S = 15.0
"""How long a worker that is to leave at once may take, from when it is told so."""

FATAL = (ConfigError, ModelError, TooManyDeadLetters)
"""Errors that another try cannot mend."""


class Supervisor:
    """Owns the actors of a run. What a person should be told is gathered for `drain_events`."""

    def __init__(
        self,
        config: ClusterConfig,
        companies: Sequence[Sequence[RoleSpec]],
        *,
        gpus_per_engine: int,
        beside: Beside = NOTHING,
        shipment: Shipment | None = None,
        heard: Callable[[], Sequence[Heard]],
    ) -> None:
        """
        companies: the roles, those together that live and die together; the first of these leads the others.
        beside: what the roles will have Ray place besides, for which there has to be room.
        shipment: the files that the nodes of a cluster need of this machine.
        heard: the roll-call, which tells who has done some work.
        """
        self._config = config
        self._companies = [self._company(specs) for specs in companies]
        self._gpus_per_engine = gpus_per_engine
        self._beside = beside
        self._shipment = shipment
        self._heard = heard
        self._events: list[tuple[str, str]] = []
        self._ray: Any = None
        self._actors: Actors | None = None
        self.given_up = ""
        """Which of the workers that were added was given up last, and why."""

    def start(self) -> None:
        """Start or join Ray and place every role. Raises ConfigError if the cluster can never hold them."""
        with self._shipment.staged() if self._shipment else contextlib.nullcontext() as folder:
            self._ray = join(
                self._config,
                cpus=self._beside.cpus,
                custom=self._beside.custom,
                runtime_env={"py_modules": [str(folder)]} if folder else None,
            )
        if self._shipment is not None:
            self._events.append(("info", self._shipment.told))
        self._placement = Placement(self._ray, self._config, self._shares())
        self._placement.check(self._companies, self._beside.resources)
        self._actors = Actors(self._ray, self._config, self._placement, self._shipment, self._warn)
        for company in self._companies:
            self._actors.place(company, self._companies)

    def tick(self) -> None:
        """Look after the roles once. Raises ArealError when one cannot be kept alive, or Ray is gone."""
        assert self._actors is not None
        try:
            for company in list(self._companies):
                self._tick(company, self._actors)
            self._actors.fetch_logs(self._companies)
        except ConnectionError as error:
            raise ArealError(
                f"the connection to Ray (cluster.address {self._config.address}) is lost: {error}"
            ) from error

    def _tick(self, company: Company, actors: Actors) -> None:
        if company.leaving_at is not None:
            self._see_off(company, actors)
        elif self.is_done("learner") and company.leader.spec.role == ROLLOUT:
            self._wind_up(company, actors)
        elif company.restart_at is None and company.added:
            self._keep_if_possible(company, actors)
        elif company.restart_at is None:
            self._look_after(company, actors)
        elif time.monotonic() >= company.restart_at:
            actors.place(company, self._companies)

    def is_done(self, name: str) -> bool:
        """Whether the role has ended by itself and well."""
        return any(placed.done for placed in self._placed if placed.spec.name == name)

    def all_done(self) -> bool:
        return all(company.done for company in self._companies)

    def drain_events(self) -> list[tuple[str, str]]:
        """(level, text) of what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def _warn(self, text: str) -> None:
        self._events.append(("warning", text))

    def stop(self) -> None:
        """Kill what still runs, and end the Ray that was started here."""
        if self._ray is None:
            return
        with contextlib.suppress(ConnectionError):  # to a cluster that is gone: its roles end with that
            for company in self._companies:
                if self._actors is not None:
                    self._actors.kill(company)
        with contextlib.suppress(ConnectionError):
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
        assert self._actors is not None
        company = self._company([spec], added=True)
        self._companies.append(company)
        self._actors.place(company, self._companies)

    def let_go(self, name: str) -> None:
        """From now on a worker is among those that are leaving, until it has ended; it is not started again."""
        for company in self._of(ROLLOUT):
            if company.leader.spec.name == name and company.leaving_at is None:
                company.leaving_at = time.monotonic()

    def room(self, count: int, each: Beside) -> str:
        """What so many more workers, and what `each` has Ray place besides, would lack; empty if there is room, or will be."""
        if self._config.grows:
            return ""
        needs = self._placement.needs[ROLLOUT].resources
        beside = each.resources
        most = MAX_PER_CORE * (os.cpu_count() or 1)
        return lacking(
            {name: count * (needs.get(name, 0) + beside.get(name, 0)) for name in {**needs, **beside}},
            self._ray.available_resources(),
            workers=len(self.workers()) + count,
            most=most if self._config.address is None else None,
        )

    def _company(self, specs: Sequence[RoleSpec], *, added: bool = False) -> Company:
        return Company([Placed(spec) for spec in specs], Restarts(self._config.max_restarts), added=added)

    def _of(self, role: str) -> list[Company]:
        return [company for company in self._companies if company.leader.spec.role == role]

    def _see_off(self, company: Company, actors: Actors) -> None:
        """Look after a worker that is to leave, until it is gone, however it ended."""
        assert company.leaving_at is not None
        actors.look(company, at_leisure=True)
        late = time.monotonic() > company.leaving_at + self._config.drain_s + HURRY_S
        if late or actors.is_waiting(company.leader):
            actors.kill(company)
        if not company.running():
            self._forget(company, actors)
            self._events.append(("info", f"{company.leader.spec.name} has left"))

    def _wind_up(self, company: Company, actors: Actors) -> None:
        """Look after a worker once all is learned: however it ends, it is not started again, and holds nobody up."""
        worker, company.restart_at = company.leader, None
        actors.look(company, at_leisure=True)
        if actors.is_waiting(worker):
            actors.kill(company)
        if worker.done or company.running():
            return
        if worker.error is not None:
            self._warn(f"{worker.spec.name} died at the end ({_told(worker.error)})")
        worker.done = True
        actors.give_back(company)

    def _keep_if_possible(self, company: Company, actors: Actors) -> None:
        try:
            self._look_after(company, actors)
        except ArealError as error:
            self._forget(company, actors)
            self.given_up = f"{company.leader.spec.name} is given up: {error}"
            self._events.append(("error", f"{self.given_up}\n  the run goes on without it"))

    def _forget(self, company: Company, actors: Actors) -> None:
        """Leave nothing of it on the cluster, nor here."""
        actors.kill(company)
        self._companies.remove(company)

    # What they take

    @property
    def _placed(self) -> list[Placed]:
        return [placed for company in self._companies for placed in company.members]

    @property
    def _num_ranks(self) -> int:
        return sum(placed.spec.role == LEARNER for placed in self._placed)

    def _shares(self) -> GpuShares:
        """The GPUs of a role of each kind. Raises ConfigError if there are too few."""
        ranks, given = self._num_ranks, self._config.resources
        workers = len(self._placed) - ranks
        if self._config.autoscale is not None:
            workers = max(workers, self._config.autoscale.max)
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        if self._config.grows and gpus:  # of those to come nobody has to share one
            gpus = max(gpus, ranks + workers * self._gpus_per_engine + math.ceil(self._beside.gpus))
        return shares(
            gpus,
            ranks=ranks,
            workers=workers,
            per_engine=self._gpus_per_engine,
            beside=self._beside.gpus,
            given=(given.learner.gpus, given.rollout.gpus),
        )

    def _can_do_without(self, company: Company) -> bool:
        """Whether it is a worker that has worked, on a node now lost perhaps, and others work: it waits until there is room."""
        others = (each for each in self._of(ROLLOUT) if each is not company and _is_placed(each))
        return company.leader.spec.role == ROLLOUT and company.restarts.deaths > 0 and any(others)

    # How they end

    def _look_after(self, company: Company, actors: Actors) -> None:
        actors.look(company, at_leisure=self._can_do_without(company))
        culprit = None if company.leader.done else company.culprit(time.monotonic())
        if culprit is not None and culprit.error is not None:
            self._plan_restart(company, culprit.spec, culprit.error, actors)

    def _plan_restart(self, company: Company, spec: RoleSpec, cause: Exception, actors: Actors) -> None:
        """End all of a company, whose member that is to blame ended on this, and have them placed again in a while."""
        if isinstance(cause, FATAL):
            raise cause
        said = _told(cause)
        several = len(company.members) > 1
        restarts, lived_s = company.restarts, time.monotonic() - company.placed_at
        restarts.note(steady=is_steady(company.leader.spec.name, lived_s, self._heard))
        if restarts.exhausted:
            who = f"ranks of the {spec.role}" if several else spec.name
            last = f"the last time {spec.name}, " if several else ""
            raise ArealError(
                f"{who} died {restarts.deaths} times in a row: {last}{said}\n  its log: {spec.log}"
            ) from cause
        actors.kill(company)
        company.restart_at = time.monotonic() + restarts.delay_s
        what = "all its ranks" if several else "it"
        self._warn(f"{spec.name} died ({said}); starting {what} again in {restarts.delay_s:g} s")


def _is_placed(company: Company) -> bool:
    """Whether all of it run, on nodes that are known."""
    return all(placed.actor is not None and placed.seat is not None for placed in company.members)


def _told(error: Exception) -> str:
    """In a line, but whole if it is one of our own."""
    first = (str(error).strip().splitlines() or [""])[0]
    return str(error) if isinstance(error, ArealError) else f"{type(error).__name__}: {first}"
