import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.codec import encode_group
from areal.broker.config import BrokerConfig
from areal.broker.errors import BrokerUnavailable, DeadlineExceeded, Fenced
from areal.broker.keys import Keys
from areal.broker.lane import Lane
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.feeder import Feeder
from areal.learner.ledger import Ledger
from areal.learner.source import GroupSource

BROKER = BrokerConfig(lease_s=60.0)


def group(prompt_id: int) -> Group:
    versions = np.array([NOT_AN_ACTION, 0], np.int32)
    return Group(
        prompt_id, (TokenTrajectory(np.array([1, 2], np.int32), versions, np.array([0, -1], np.float32), 1.0),), "w"
    )


class Stage:
    """A lane, the worker on it, and sources that are closed in the end."""

    def __init__(self, client: Client, run: str) -> None:
        self.client, self.run = client, run
        self.lane = Lane(client, run, "train", BROKER)
        self.bulletin = Bulletin(client, run)
        self.epoch = self.bulletin.lead()
        self.sources: list[GroupSource] = []

    def source(self, ledger: Ledger | None = None) -> GroupSource:
        made = GroupSource(self.lane, ledger or Ledger(), epoch=self.epoch)
        self.sources.append(made)
        return made

    def complete(self, *positions: int) -> None:
        """Issue up to the last of them, and complete them in this order."""
        issued = self.lane.depth().issued
        self.lane.issue([Prompt(i, 0, 1, {}) for i in range(issued, max(positions) + 1)], epoch=self.epoch)
        leases = {lease.prompt.id: lease for lease in self.lane.lease("w", count=100, timeout_s=0)}
        for position in positions:
            assert self.lane.complete(leases[position], group(position))

    def add_group(self, position: int) -> None:
        """What a Redis that came back a second older may hold: a group whose twin was learned from."""
        key = Keys(self.run).of("train", "groups")
        self.client.xadd(key, {"id": position, "body": encode_group(group(position))})


@pytest.fixture
def stage(client: Client, run: str) -> Iterator[Stage]:
    made = Stage(client, run)
    yield made
    for source in made.sources:
        source.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def test_the_oldest_come_first(stage: Stage) -> None:
    stage.complete(3, 1, 0, 2)
    source = stage.source()
    until(lambda: source.num_waiting == 4)
    taken = source.take(2, timeout_s=5, idle=lambda: False)
    assert [delivery.group.prompt_id for delivery in taken] == [0, 1]
    assert source.num_waiting == 2
    source.settle(taken)
    assert source.ledger.ranges() == [(0, 2)] and source.num_settled == 2
    assert stage.lane.depth().groups == 4
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 2 and source.num_settled == 0


def test_what_was_not_acknowledged_comes_again_to_the_next_learner(stage: Stage) -> None:
    stage.complete(0, 1, 2, 3)
    first = stage.source()
    taken = first.take(3, timeout_s=5, idle=lambda: False)
    first.settle(taken[:2])
    ledger = Ledger(first.ledger.ranges())  # of a checkpoint that covers 0 and 1, whose acknowledgement was lost
    first.settle(taken[2:])
    second = stage.source(ledger)
    until(lambda: second.num_waiting == 2)
    assert [d.group.prompt_id for d in second.take(2, timeout_s=5, idle=lambda: False)] == [2, 3]
    assert second.num_settled == 2, "a repeated group is dropped only when a checkpoint makes its twin durable"
    second.acknowledge(second.settled())
    assert stage.lane.depth().groups == 2


def test_a_group_delivered_twice_is_acknowledged_with_its_twin(stage: Stage) -> None:
    stage.complete(0)
    stage.add_group(0)
    source = stage.source()
    until(lambda: source.num_waiting == 1)
    taken = source.take(1, timeout_s=5, idle=lambda: False)
    until(lambda: stage.lane.depth().groups == 2)
    time.sleep(0.2)
    source.settle(taken)
    assert source.num_settled == 2 and source.ledger.ranges() == [(0, 1)]
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0


def test_rejected_groups_are_dead_letters(stage: Stage) -> None:
    stage.complete(0, 1)
    source = stage.source()
    taken = source.take(2, timeout_s=5, idle=lambda: False)
    source.reject(taken, "the loss is nan")
    assert [letter.cause for letter in stage.lane.dead_letters()] == ["the loss is nan"] * 2
    assert stage.lane.depth().groups == 0 and source.num_settled == 0


def test_waiting_ends_at_its_deadline_or_when_idle_says_so(stage: Stage) -> None:
    source = stage.source()
    with pytest.raises(DeadlineExceeded, match=r"only 0 of 2 groups came from the rollout workers within 0\.1 s"):
        source.take(2, timeout_s=0.1, idle=lambda: False)
    assert source.take(2, timeout_s=5, idle=lambda: True) == []


def test_an_error_of_the_fetching_thread_is_raised(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BrokerUnavailable("gone")

    monkeypatch.setattr(stage.lane, "take", fail)
    source = stage.source()
    with pytest.raises(BrokerUnavailable, match="gone"):
        source.take(1, timeout_s=5, idle=lambda: False)


def test_a_learner_whose_epoch_is_over_cannot_acknowledge(stage: Stage) -> None:
    stage.complete(0)
    source = stage.source()
    source.settle(source.take(1, timeout_s=5, idle=lambda: False))
    stage.bulletin.lead()
    with pytest.raises(Fenced):
        source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 1


class Rows:
    """A feeder over rows that are made on the fly."""

    def __init__(self, stage: Stage, source: GroupSource, max_outstanding: int) -> None:
        self.feeder = Feeder(
            stage.lane,
            Dataset(DatasetConfig(source="sort", eval_size=0)),
            source,
            max_outstanding=max_outstanding,
            group_size=2,
            epoch=stage.epoch,
        )

    def top_up(self, needed: int = 10**6) -> int:
        return self.feeder.top_up(version=0, needed=needed)


def test_prompts_are_issued_up_to_the_bound(stage: Stage) -> None:
    source = stage.source()
    rows = Rows(stage, source, max_outstanding=6)
    assert [rows.top_up(), rows.top_up()] == [6, 0]
    leases = stage.lane.lease("w", count=6, timeout_s=1)
    for lease in leases[:3]:
        stage.lane.complete(lease, group(lease.prompt.id))
    assert rows.top_up() == 0
    taken = source.take(2, timeout_s=5, idle=lambda: False)
    assert rows.top_up() == 0
    source.settle(taken)
    assert rows.top_up() == 2
    source.acknowledge(source.settled())
    assert rows.top_up() == 0
    once = Lane(stage.client, stage.run, "train", BrokerConfig(max_attempts=1))
    assert not once.fail("w", leases[5], "lost on the way")
    assert stage.lane.depth().dead == 1
    assert rows.top_up() == 1


def test_no_more_are_issued_than_the_run_still_needs(stage: Stage) -> None:
    rows = Rows(stage, stage.source(), max_outstanding=6)
    assert [rows.top_up(needed=4), rows.top_up(needed=4), rows.top_up(needed=0)] == [4, 0, 0]


def test_topping_up_amid_an_acknowledgement_keeps_the_bound(client: Client, run: str) -> None:
    issued: list[int] = []

    class Slow(Lane):
        """Whose reply to an acknowledgement is still on its way while the learner tops up."""

        def acknowledge(self, entries: Any, *, epoch: int) -> int:
            gone = super().acknowledge(entries, epoch=epoch)
            issued.append(rows.top_up())
            return gone

    stage = Stage(client, run)
    stage.lane = Slow(client, run, "train", BROKER)
    source = stage.source()
    rows = Rows(stage, source, max_outstanding=4)
    rows.top_up()
    for lease in stage.lane.lease("w", count=4, timeout_s=1):
        stage.lane.complete(lease, group(lease.prompt.id))
    source.settle(source.take(4, timeout_s=5, idle=lambda: False))
    assert rows.top_up() == 4
    source.acknowledge(source.settled())
    assert issued == [0]
    assert stage.lane.depth().prompts == 4
    source.close()
