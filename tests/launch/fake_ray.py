"""A Ray that places nothing: what it was asked for is noted, and a test says how each role ends."""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from areal.broker.rollcall import Heard, Member
from areal.launch.cluster import actors, distant_logs, supervisor
from areal.launch.cluster.actor import Seat
from areal.launch.cluster.beside import NOTHING, Beside
from areal.launch.cluster.fit import SLOT
from areal.launch.cluster.shipping import Shipment
from areal.launch.cluster.supervisor import Supervisor
from areal.launch.cluster_config import ClusterConfig
from areal.launch.roles import RoleSpec


@dataclass(eq=False)
class Answer:
    """What a call to an actor comes to: False while it runs, then True, a value or an error."""

    end: Any = False

    def remote(self, *arguments: Any) -> "Answer":
        return self


@dataclass(frozen=True)
class Group:
    """A placement group, as it was asked for."""

    bundles: list[dict[str, float]]
    strategy: str
    labels: list[dict[str, str]] | None
    room: Answer = field(default_factory=lambda: Answer(True), compare=False)

    def ready(self) -> Answer:
        return self.room


@dataclass(eq=False)
class Life:
    """An actor of a role, from its placement to its end: by its `options`, in a bundle of a group."""

    name: str
    cargo: Any
    options: dict[str, Any]
    killed: bool = False
    run: Answer = field(default_factory=Answer)
    seat: Answer = field(default_factory=lambda: Answer(Seat("n0", "10.0.0.1", shares_directory=True)))
    log_since: Answer = field(default_factory=lambda: Answer(b""))

    @property
    def gpus(self) -> float:
        return float(self.options["num_gpus"])

    @property
    def group(self) -> Group:
        group: Group = self.options["scheduling_strategy"][0]
        return group

    @property
    def labels(self) -> dict[str, str]:
        """What the node has to have."""
        return self.group.labels[0] if self.group.labels else {}


class TaskError(Exception):
    """As Ray raises the error of an actor."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class ActorDied(Exception):
    """As Ray raises it when an actor is gone."""


class ActorUnavailableError(ActorDied):
    """As Ray raises it when an actor is not reached, and it does not know why."""


@dataclass
class FakeRay:
    """A cluster of nodes n0, n1, … at these hosts, GPUs on the first; the lives of each role, and groups, the newest last."""

    gpus: float = 0.0
    hosts: tuple[str, ...] = ("10.0.0.1",)
    cpus: float = 64.0
    custom: dict[str, dict[str, float]] = field(default_factory=dict)
    lives: dict[str, list[Life]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    joined: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.util = SimpleNamespace(
            placement_group=self.place_group,
            remove_placement_group=self.groups.remove,
            scheduling_strategies=SimpleNamespace(PlacementGroupSchedulingStrategy=lambda *where: where),
        )

    def init(self, **options: Any) -> None:
        self.joined = options

    def shutdown(self) -> None:
        self.joined = {}

    def place_group(
        self, bundles: list[dict[str, float]], strategy: str, bundle_label_selector: list[dict[str, str]] | None = None
    ) -> Group:
        self.groups.append(Group(bundles, strategy, bundle_label_selector))
        return self.groups[-1]

    def cluster_resources(self) -> dict[str, float]:
        names = {name for node in self.nodes() for name in node["Resources"]}
        return {name: sum(node["Resources"].get(name, 0.0) for node in self.nodes()) for name in names}

    available_resources = cluster_resources

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": f"n{index}",
                "Alive": f"n{index}" not in self.dead,
                "NodeManagerAddress": host,
                "Resources": {"CPU": self.cpus, SLOT: 1000.0, "node:x": 1.0}
                | ({"GPU": self.gpus} if self.gpus and index == 0 else {})
                | self.joined.get("resources", {})
                | self.custom.get(f"n{index}", {}),
            }
            for index, host in enumerate(self.hosts)
        ]

    def remote(self, actor: type) -> Any:
        return FakeActor(self)

    def kill(self, life: Life) -> None:
        life.killed = True

    def wait(self, answers: list[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        return [answer for answer in answers if answer.end is not False], []

    def get(self, answer: Answer, timeout: float | None = None) -> Any:
        if isinstance(answer.end, ActorDied):
            raise answer.end
        if isinstance(answer.end, Exception):
            raise TaskError(answer.end)
        return answer.end


@dataclass
class FakeActor:
    """What `ray.remote` makes of a class."""

    ray: FakeRay
    given: dict[str, Any] = field(default_factory=dict)

    def options(self, **options: Any) -> "FakeActor":
        return FakeActor(self.ray, options)

    def remote(self, spec: RoleSpec, cargo: Any) -> Life:
        life = Life(spec.name, cargo, self.given)
        self.ray.lives.setdefault(spec.name, []).append(life)
        return life


class Cluster:
    """A supervisor on a Ray and a clock that a test sets; what it told is in `told`."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        ranks: int = 2,
        workers: int = 1,
        ray: FakeRay | None = None,
        address: str | None = "auto",
        beside: Beside = NOTHING,
        shipment: Shipment | None = None,
        directory: str = "/nowhere",
        **configured: Any,
    ) -> None:
        self.ray = ray or FakeRay()
        self.now = 1000.0
        self.heard: list[Heard] = []
        self.told: list[str] = []
        learners = ["learner", *(f"learner-{rank}" for rank in range(1, ranks))]
        self.supervisor = Supervisor(
            ClusterConfig.model_validate({"address": address, "max_restarts": 3, **configured}),
            [
                [spec(name, directory) for name in learners],
                *([spec(f"rollout-{index}", directory)] for index in range(workers)),
            ],
            gpus_per_engine=1,
            beside=beside,
            shipment=shipment,
            heard=lambda: self.heard,
        )
        monkeypatch.setitem(sys.modules, "ray", self.ray)  # type: ignore[arg-type]
        clock = ModuleType("time")
        clock.monotonic = lambda: self.now  # type: ignore[attr-defined]
        for module in (actors, supervisor, distant_logs):
            monkeypatch.setattr(module, "time", clock)

    def start(self) -> "Cluster":
        self.supervisor.start()
        return self

    def tick(self, after_s: float = 0.0) -> None:
        self.now += after_s
        self.supervisor.tick()
        self.told += [text for _, text in self.supervisor.drain_events()]

    def life(self, name: str) -> Life:
        """The newest of a role."""
        return self.ray.lives[name][-1]

    def ends(self, name: str, end: Exception | bool) -> None:
        self.life(name).run.end = end

    def placements(self) -> dict[str, int]:
        """How often each role has been placed."""
        return {name: len(lives) for name, lives in self.ray.lives.items()}

    def hear(self, name: str, *, ago_s: float = 0.1, worked: bool = True) -> None:
        """What a role last said at the roll-call, and whether it had done something then."""
        member = Member(name, name.partition("-")[0], "box", 7, 50.0, 60.0 if worked else 49.9, 3)
        self.heard = [Heard(member, ago_s, silent=False)]


def spec(name: str, directory: str = "/nowhere") -> RoleSpec:
    return RoleSpec(name, {}, "model", "redis://x", directory, "key")
