"""A Ray that places nothing: what it was asked for is noted, and a test says how each role ends."""

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from areal.broker.rollcall import Heard, Member
from areal.launch import supervisor
from areal.launch.autoscale import AutoscaleConfig
from areal.launch.config import ClusterConfig
from areal.launch.roles import RoleSpec
from areal.launch.supervisor import NOTHING, Beside, Supervisor


@dataclass(eq=False)
class Answer:
    """What a call to an actor comes to: False while it runs, then True or an error."""

    end: Exception | bool = False

    def remote(self) -> "Answer":
        return self


@dataclass(eq=False)
class Life:
    """An actor of a role, from its placement to its end."""

    name: str
    gpus: float
    cpus: float = 1.0
    killed: bool = False
    run: Answer = field(default_factory=Answer)
    ready: Answer = field(default_factory=lambda: Answer(True))

    @property
    def __ray_ready__(self) -> Answer:
        return self.ready


class TaskError(Exception):
    """As Ray raises the error of an actor."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


@dataclass
class FakeRay:
    """A cluster of so many GPUs, and the lives of each role, the newest last."""

    gpus: float = 0.0
    hosts: tuple[str, ...] = ("10.0.0.1",)
    lives: dict[str, list[Life]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def init(self, **options: Any) -> None:
        self.options = options

    def shutdown(self) -> None:
        self.options = {}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 64.0} | ({"GPU": self.gpus} if self.gpus else {})

    available_resources = cluster_resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeManagerAddress": host} for host in self.hosts]

    def remote(self, actor: type) -> Any:
        return FakeActor(self)

    def kill(self, life: Life) -> None:
        life.killed = True

    def wait(self, answers: list[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        return [answer for answer in answers if answer.end], []

    def get(self, answer: Answer) -> None:
        if isinstance(answer.end, Exception):
            raise TaskError(answer.end)


@dataclass
class FakeActor:
    """What `ray.remote` makes of a class."""

    ray: FakeRay
    gpus: float = 0.0
    cpus: float = 1.0

    def options(self, *, num_cpus: float, num_gpus: float, max_restarts: int) -> "FakeActor":
        return FakeActor(self.ray, num_gpus, num_cpus)

    def remote(self, spec: RoleSpec) -> Life:
        life = Life(spec.name, self.gpus, self.cpus)
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
        autoscale: AutoscaleConfig | None = None,
    ) -> None:
        self.ray = ray or FakeRay()
        self.now = 1000.0
        self.heard: list[Heard] = []
        self.told: list[str] = []
        learners = ["learner", *(f"learner-{rank}" for rank in range(1, ranks))]
        self.supervisor = Supervisor(
            ClusterConfig(address=address, max_restarts=3, autoscale=autoscale),
            [[spec(name) for name in learners], *([spec(f"rollout-{index}")] for index in range(workers))],
            gpus_per_engine=1,
            beside=beside,
            heard=lambda: self.heard,
        )
        monkeypatch.setitem(sys.modules, "ray", self.ray)  # type: ignore[arg-type]
        clock = ModuleType("time")
        clock.monotonic = lambda: self.now  # type: ignore[attr-defined]
        monkeypatch.setattr(supervisor, "time", clock)

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


def spec(name: str) -> RoleSpec:
    return RoleSpec(name, {}, "model", "redis://x", "/nowhere", "key")
