"""Whatever the parties do, in whatever order: every position is in exactly one place."""

import uuid
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.keys import Keys
from areal.broker.lane import Delivery, Lane, Lease
from areal.broker.trajectory import Prompt

from .test_lane import group

WORKERS = st.sampled_from(["a", "b", "c"])


class Life(RuleBasedStateMachine):
    """Three workers and a learner on one lane. A lease expires at once; one that was lost is used as if it was not."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        run = uuid.uuid4().hex
        self.keys = Keys(run)
        self.epoch = Bulletin(self.client, run).lead()
        self.lanes = {name: Lane(self.client, run, "train", BrokerConfig(lease_s=1e-4)) for name in "abcl"}
        self.leases: list[tuple[str, Lease]] = []
        self.taken: list[Delivery] = []
        self.acknowledged: set[int] = set()
        self.completed: set[int] = set()
        self.after = "0"

    @rule(count=st.integers(1, 3), back=st.integers(0, 2))
    def issue(self, count: int, back: int) -> None:
        first = max(0, self.lanes["l"].depth().issued - back)
        prompts = [Prompt(i, 0, 1, {"prompt": ""}) for i in range(first, first + count)]
        self.lanes["l"].issue(prompts, epoch=self.epoch)

    @rule(worker=WORKERS, count=st.integers(1, 3), reclaim=st.booleans())
    def lease(self, worker: str, count: int, reclaim: bool) -> None:
        lane: Any = self.lanes[worker]
        lane._reclaimed_at = 0.0 if reclaim else float("inf")
        self.leases += [(worker, lease) for lease in lane.lease(worker, count=count, timeout_s=0)]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def complete(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        if self.lanes[worker].complete(lease, group(lease.prompt.id)):
            assert lease.prompt.id not in self.completed
            self.completed.add(lease.prompt.id)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def fail(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        self.lanes[worker].fail(worker, lease, "failed")

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        self.lanes[worker].release(worker, lease)

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        self.lanes[worker].renew(worker, [lease for holder, lease in self.leases if holder == worker])

    @rule(count=st.integers(1, 3), restart=st.booleans())
    def take(self, count: int, restart: bool) -> None:
        deliveries, self.after = self.lanes["l"].take("0" if restart else self.after, count=count, timeout_s=0)
        self.taken += deliveries

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.taken))
        gone = self.lanes["l"].acknowledge([delivery.entry], epoch=self.epoch)
        assert gone == (delivery.group.prompt_id not in self.acknowledged)
        self.acknowledged.add(delivery.group.prompt_id)

    @invariant()
    def every_position_is_in_one_place(self) -> None:
        places = [sorted(self.acknowledged)]
        for name in ("prompts", "groups", "dead"):
            entries: Any = self.client.xrange(self.keys.of("train", name))
            places.append([int(fields[b"id"]) for _, fields in entries])
        issued = self.lanes["l"].depth().issued
        assert sorted(position for place in places for position in place) == list(range(issued))

    def _pick(self, data: st.DataObject, keep: bool) -> tuple[str, Lease]:
        index = data.draw(st.integers(0, len(self.leases) - 1))
        return self.leases[index] if keep else self.leases.pop(index)


def test_every_position_is_in_exactly_one_place(client: Client) -> None:
    Life.client = client
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
