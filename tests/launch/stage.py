"""Runs that the commands are tried on: directories, and what lies in Redis for them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetter, DeadLetters
from areal.broker.keys import LaneKeys
from areal.broker.lane import Lane
from areal.broker.rollcall import Member, RollCall
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Group, Prompt

from ..broker.samples import group

MEMBER = Member("rollout-0", "rollout", "box", 77, 0.0, 0.0, 3)


@dataclass
class Stage:
    """A run's keys."""

    client: Client
    key: str

    def __post_init__(self) -> None:
        self.epoch = Bulletin(self.client, self.key).lead()

    def lane(self, name: str = "train") -> Lane:
        return Lane(self.client, self.key, name)

    def dead(self, lane: str = "train") -> DeadLetters:
        return DeadLetters(self.client, self.key, lane)

    def bury(
        self, *causes: str, lane: str = "train", worker: str = "w", row: dict[str, Any] | None = None
    ) -> list[DeadLetter]:
        """A prompt dies of each cause; returns all letters of the lane."""
        issued = self.lane(lane).depth().issued
        prompts = [Prompt(issued + i, 0, 2, row or {"prompt": str(issued + i)}) for i in range(len(causes))]
        self.lane(lane).issue(prompts, after=issued, epoch=self.epoch)
        tickets = Tickets(self.client, self.key, lane, BrokerConfig(max_attempts=1, lease_s=600))
        leases = tickets.lease(worker, count=len(causes), timeout_s=5)
        for lease, cause in zip(leases, causes, strict=True):
            assert not tickets.fail(worker, lease, cause)
        return self.dead(lane).list()

    def bury_group(self, cause: str, made: Group | None = None) -> DeadLetter:
        """A group is rejected; returns its letter."""
        lane = self.lane()
        issued = lane.depth().issued
        lane.issue([Prompt(issued, 0, 2, {})], after=issued, epoch=self.epoch)
        tickets = Tickets(self.client, self.key, "train", BrokerConfig())
        (lease,) = tickets.lease("w", count=1, timeout_s=5)
        assert tickets.complete(lease, made or group(issued))
        (delivery,) = lane.fetch(lane.listing().groups)
        assert lane.reject(delivery.receipt, cause, worker="w", epoch=self.epoch)
        return self.dead().list()[-1]

    def put(self, fields: dict[str, str | bytes], lane: str = "train", entry: str = "*") -> str:
        """A letter as anyone might write it; returns its entry."""
        stream: Any = self.client
        made: bytes = stream.xadd(LaneKeys(self.key, lane).dead, fields, id=entry)
        return made.decode()

    def beat(self, member: Member = MEMBER) -> None:
        RollCall(self.client, self.key, silent_after_s=1).beat(member)

    def was_heard(self, ago_s: float, member: Member = MEMBER) -> None:
        """The member's last word is so old."""
        self.beat(member)
        key, stream = f"areal:{{{self.key}}}:roll", self.client
        told: Any = stream.hget(key, member.name)
        stream.hset(key, member.name, f"{round(1000 * (time.time() - ago_s))} ".encode() + told.partition(b" ")[2])  # type: ignore[arg-type]


def make_directory(path: Path, *, url: str | None = None, identity: str = "0123456789ab", config: str = "") -> str:
    """A run directory as `areal run` leaves it; returns its key."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config or f"run: {path.name}\nbroker: {{url: {url or 'null'}, lease_s: 2.0}}\n")
    (path / ".id").write_text(identity)
    return f"{path.name}-{identity}"
