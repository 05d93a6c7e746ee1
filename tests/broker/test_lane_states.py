"""Whatever the parties do, in whatever order: every position is in exactly one place."""

import uuid
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.keys import LaneKeys
from areal.broker.lane import Delivery, Lane
from areal.broker.tickets import Lease, Tickets
from areal.broker.trajectory import Prompt

from .samples import claims, group

WORKERS = st.sampled_from(["a", "b", "c"])


class Life(RuleBasedStateMachine):
    """Three workers, a learner and a person on one lane. A lease expires at once; a lost one is used as if it was not."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.run = uuid.uuid4().hex
        self.keys = LaneKeys(self.run, "train")
        self.epoch = Bulletin(self.client, self.run).lead()
        self.lane = Lane(self.client, self.run, "train")
        self.letters = DeadLetters(self.client, self.run, "train")
        config = BrokerConfig(lease_s=1e-4, max_attempts=2)
        self.tickets = {name: Tickets(self.client, self.run, "train", config) for name in "abc"}
        self.leases: list[tuple[str, Lease]] = []
        self.taken: list[Delivery] = []
        self.issued: list[int] = []
        self.acknowledged: set[int] = set()
        self.completed: set[int] = set()
        self.dropped: set[int] = set()
        self.after = "0"

    @rule(count=st.integers(1, 3), skip=st.integers(0, 2), stale=st.booleans())
    def issue(self, count: int, skip: int, stale: bool) -> None:
        after = self.lane.depth().issued
        first = after + skip
        prompts = [Prompt(i, 0, 1, {"prompt": ""}) for i in range(first, first + count)]
        for _ in range(2):  # the second time, it has been done
            done = self.lane.issue(prompts, after=after + stale, epoch=self.epoch)
            assert done == (after if stale else first + count)
        if not stale:
            self.issued += range(first, first + count)

    @rule()
    def reissue(self) -> None:
        """What waits is not issued again."""
        prompts = [Prompt(i, 0, 1, {"prompt": ""}) for i in self._positions("prompts")]
        assert self.lane.reissue(prompts, epoch=self.epoch) == 0

    @rule(worker=WORKERS, count=st.integers(1, 3), reclaim=st.booleans())
    def lease(self, worker: str, count: int, reclaim: bool) -> None:
        tickets: Any = self.tickets[worker]
        tickets._reclaimed_at = 0.0 if reclaim else float("inf")
        self.leases += [(worker, lease) for lease in tickets.lease(worker, count=count, timeout_s=0)]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def complete(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        if self.tickets[worker].complete(lease, group(lease.prompt.id)):
            assert lease.prompt.id not in self.completed
            self.completed.add(lease.prompt.id)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def fail(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        self.tickets[worker].fail(worker, lease, "failed")

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        self.tickets[worker].release(worker, lease)

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        self.tickets[worker].renew(worker, [lease for holder, lease in self.leases if holder == worker])

    @rule(count=st.integers(1, 3), restart=st.booleans())
    def take(self, count: int, restart: bool) -> None:
        deliveries, self.after = self.lane.take("0" if restart else self.after, count=count, timeout_s=0)
        self.taken += deliveries

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.taken))
        there = delivery.receipt in self.lane.listing().groups
        assert self.lane.acknowledge([delivery.receipt], epoch=self.epoch) == there
        if there:
            self.acknowledged.add(delivery.group.prompt_id)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.taken))
        there = delivery.receipt in self.lane.listing().groups
        assert self.lane.reject(delivery.receipt, "rejected", worker="w", epoch=self.epoch) == there

    @precondition(lambda self: self.letters.list())
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from(self.letters.list()))
        assert self.letters.retry([letter, letter]) == 1

    @rule(count=st.integers(0, 3))
    def resume(self, count: int) -> None:
        there = len(self._positions("again"))
        assert self.lane.resume(count, waiting=self.lane.depth().again, epoch=self.epoch) == min(count, there)

    @precondition(lambda self: self.letters.list())
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from(self.letters.list()))
        assert self.letters.drop([letter, letter]) == 1
        self.dropped.add(letter.position)

    @invariant()
    def every_position_is_in_one_place(self) -> None:
        held = [each for name in ("prompts", "groups", "dead", "again") for each in self._positions(name)]
        assert sorted([*held, *self.dropped, *self.acknowledged]) == self.issued
        assert self.lane.positions() == {*held, *self.dropped}

    @invariant()
    def the_bytes_that_stay_are_those_of_the_groups(self) -> None:
        entries = [fields for name in ("groups", "dead", "again") for fields in self._entries(name)]
        claimed = [fields[b"claim"].decode() for fields in entries if b"claim" in fields]
        assert claims(self.client, self.run, expiring=False) == sorted(claimed)
        assert claims(self.client, self.run, expiring=True) == []

    def _entries(self, name: str) -> list[dict[bytes, bytes]]:
        found: Any = self.client.xrange(self.keys.of(name))
        return [fields for _, fields in found]

    def _positions(self, name: str) -> list[int]:
        return [int(fields[b"id"]) for fields in self._entries(name)]

    def _pick(self, data: st.DataObject, keep: bool) -> tuple[str, Lease]:
        index = data.draw(st.integers(0, len(self.leases) - 1))
        return self.leases[index] if keep else self.leases.pop(index)


def test_every_position_is_in_exactly_one_place(client: Client) -> None:
    Life.client = client
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
