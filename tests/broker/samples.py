"""What the tests of a lane put on it, and how they look at it."""

import time
from typing import Any

import numpy as np

from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.keys import LaneKeys
from areal.broker.tickets import Lease, Tickets
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory

LEASE_S = 0.15
BROKER = BrokerConfig(lease_s=LEASE_S, max_attempts=3)


def prompts(first: int, count: int) -> list[Prompt]:
    return [Prompt(i, 0, 2, {"prompt": str(i)}) for i in range(first, first + count)]


def group(prompt_id: int, reward: float = 1.0) -> Group:
    versions = np.array([NOT_AN_ACTION, 0], np.int32)
    trajectory = TokenTrajectory(np.array([1, 2], np.int32), versions, np.array([0, -1], np.float32), reward)
    return Group(prompt_id, (trajectory,), "w")


def tickets_of(client: Client, run: str, **options: Any) -> Tickets:
    return Tickets(client, run, "train", BROKER.model_copy(update=options))


def lease(tickets: Tickets, worker: str, count: int, *, timeout_s: float = 3.0) -> list[Lease]:
    """As a worker does: asked for again until `count` have come."""
    leases: list[Lease] = []
    deadline = time.monotonic() + timeout_s
    while len(leases) < count and time.monotonic() < deadline:
        leases += tickets.lease(worker, count=count - len(leases), timeout_s=0.05)
    assert len(leases) == count
    return leases


def claims(client: Client, run: str, *, expiring: bool) -> list[str]:
    """The claims whose bodies are there: those that expire, or those that do not."""
    bodies: Any = client.keys(LaneKeys(run, "train").body("*"))
    return sorted(key.decode().rpartition(":")[2] for key in bodies if (client.pttl(key) >= 0) is expiring)
