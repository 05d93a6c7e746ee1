"""The actors of a run: started where Ray has room for them, told apart by how they end, and killed."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...broker.errors import ArealError, NodeLost, ProcessDied
from ..cluster_config import ClusterConfig
from ..roles import LEARNER
from .actor import Cargo, RoleActor
from .company import Company, Placed
from .distant_logs import DistantLogs
from .fit import told_resources
from .placement import Placement
from .shipping import Shipment

BUSY_S = 15.0
"""How long a role waits for its place before somebody is told."""

LOST_S = 60.0
"""How long Ray may take to find out what has become of an actor that it does not reach; of a node's death, about 15 s."""
UNAVAILABLE, NODE_DIED = "ActorUnavailableError", "its node has died"
"""How it says that it does not know, and what it then finds."""


class Actors:
    """What is done to them; which of them there are to be is the Supervisor's to say."""

    def __init__(
        self,
        ray: Any,
        config: ClusterConfig,
        placement: Placement,
        shipment: Shipment | None,
        say: Callable[[str], None],
    ) -> None:
        """
        shipment: the files that their nodes need of this machine.
        say: told what a person should be warned of.
        """
        self._ray = ray
        self._config = config
        self._placement = placement
        self._shipment = shipment
        self._say = say
        self._logs = DistantLogs(ray)

    def place(self, company: Company, companies: Sequence[Company]) -> None:
        """Ask for its places among those of all, and start its actors there; if the learner has to be placed first, it is
        to be placed again at once."""
        company.placed_at, company.restart_at = time.monotonic(), None
        company.told_busy = False
        for placed in company.members:
            placed.seat, placed.done, placed.error = None, False, None
            placed.log_asked, placed.log_offset, placed.lost_at = None, 0, None
        if not self._placement.ask(company, companies):
            company.restart_at = company.placed_at
            return
        cargo = Cargo(self._shipment.moved, os.getcwd()) if self._shipment else None
        for index, placed in enumerate(company.members):
            actor_class = self._ray.remote(RoleActor).options(
                max_restarts=0,
                max_concurrency=2,  # its log is asked for while it runs
                **self._placement.options(company, index),
            )
            placed.actor = actor_class.remote(placed.spec, cargo)
            placed.ready = placed.actor.seat.remote()
            placed.result = placed.actor.run.remote()

    def look(self, company: Company, *, at_leisure: bool = False) -> None:
        """Take note of where its roles have been placed, and which of them have ended, and on what.

        Raises ArealError for one that the cluster has had no room for in time, unless it is waited for `at_leisure`.
        """
        for placed in company.running():
            if placed.ready is not None:
                self._await_place(placed, company, at_leisure=at_leisure)
            if self._has_come(placed.result):
                self._end(placed)
        if company.done:
            self.give_back(company)

    def is_waiting(self, placed: Placed) -> bool:
        """Whether Ray has not found a place for it yet."""
        return placed.ready is not None and not self._has_come(placed.ready)

    def kill(self, company: Company) -> None:
        """End what runs of it, and leave its places to others."""
        for placed in company.running():
            self._logs.fetch_rest(placed)
            self._ray.kill(placed.actor)
            placed.actor = placed.result = placed.ready = None
        self.give_back(company)

    def give_back(self, company: Company) -> None:
        """Leave its places to others."""
        if company.group is not None:
            self._placement.give_back(company)

    def fetch_logs(self, companies: Sequence[Company]) -> None:
        """Bring home, now and then, what those print whose node does not see the run directory."""
        self._logs.fetch([placed for company in companies for placed in company.members])

    def _has_come(self, answer: Any) -> bool:
        return bool(self._ray.wait([answer], timeout=0)[0])

    # How they begin

    def _await_place(self, placed: Placed, company: Company, *, at_leisure: bool) -> None:
        waited_s = time.monotonic() - company.placed_at
        has_room = self._has_come(company.room)
        if self._has_come(placed.ready):
            ready, placed.ready = placed.ready, None
            with contextlib.suppress(Exception):  # of an actor that has died, which its result tells
                placed.seat = self._ray.get(ready)
            self._tell_distance(placed)
        elif waited_s > self._config.place_timeout_s and not at_leisure:
            failed = (
                f"started no actor for {placed.spec.name}" if has_room else f"found no place for {placed.spec.name}"
            )
            limit = f"within {self._config.place_timeout_s:g} s (cluster.place_timeout_s)"
            raise ArealError(f"Ray {failed} {limit}; {self._told_room(placed)}")
        elif waited_s > BUSY_S and not has_room and not company.told_busy:
            company.told_busy = True
            self._say(f"{placed.spec.name} waits for a place: {self._told_room(placed)}")

    def _told_room(self, placed: Placed) -> str:
        """What a role wants, and what there is."""
        wanted = told_resources(self._placement.needs[placed.spec.role].resources)
        if self._config.affinity != "any":
            wanted += f" (cluster.affinity is {self._config.affinity})"
        return f"it wants {wanted}, and the cluster has {told_resources(self._ray.available_resources())} left"

    def _tell_distance(self, placed: Placed) -> None:
        """Say it of a role from whose node the run directory is not seen."""
        if placed.seat is None or placed.seat.shares_directory:
            return
        learner = placed.spec.role == LEARNER
        its = "checkpoints are written to a disk there alone" if learner else "log is fetched from there"
        where = f"{placed.seat.host}, where {placed.spec.directory} is not this run's directory"
        self._say(f"{placed.spec.name} runs on {where}: its {its}")

    # How they end

    def _end(self, placed: Placed) -> None:
        """Note how a role ended, or that Ray does not know it yet."""
        error: Exception | None
        try:
            self._ray.get(placed.result)
            error = None if placed.lost_at is None else ProcessDied("Ray lost touch with it for a while")
        except Exception as raised:
            error = self._cause(placed, raised)
        now = time.monotonic()
        if error is not None and type(error).__name__ == UNAVAILABLE and now < (placed.lost_at or now) + LOST_S:
            placed.lost_at, placed.result = placed.lost_at or now, placed.actor.seat.remote()
            return
        placed.done, placed.error, placed.failed_at = error is None, error, now
        self._logs.fetch_rest(placed)
        placed.actor = placed.result = placed.ready = placed.lost_at = None

    def _cause(self, placed: Placed, error: Exception) -> Exception:
        """The error of a role, or of the node that it was on."""
        cause: Exception | None = getattr(error, "cause", None)
        if cause is not None:
            return cause
        gone = placed.seat is not None and not self._placement.is_alive(placed.seat.node)
        if gone or NODE_DIED in str(error):
            host = f" {placed.seat.host}" if placed.seat is not None else ""
            return NodeLost(f"its node{host} is gone")
        return error
