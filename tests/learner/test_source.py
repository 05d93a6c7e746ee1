import time
from collections.abc import Callable, Iterator

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.codec import encode_group
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import BrokerUnavailable, DeadlineExceeded, Fenced
from areal.broker.keys import LaneKeys
from areal.broker.lane import Delivery, Lane
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Prompt
from areal.learner.ledger import Ledger
from areal.learner.source import GroupSource

from ..broker.samples import claims, group

BROKER = BrokerConfig(lease_s=60.0)
LATE = "9999999999999-0"
"""Where a source goes on from that has seen later entries than any that will come: those of a Redis that went back."""


class Stage:
    """A lane, the worker on it, and sources that are closed in the end."""

    def __init__(self, client: Client, run: str) -> None:
        self.client, self.run = client, run
        self.keys = LaneKeys(run, "train")
        self.lane = Lane(client, run, "train")
        self.tickets = Tickets(client, run, "train", BROKER)
        self.dead = DeadLetters(client, run, "train")
        self.bulletin = Bulletin(client, run)
        self.epoch = self.bulletin.lead()
        self.started: list[GroupSource] = []

    def source(self, ledger: Ledger | None = None) -> GroupSource:
        """One that fetches in its thread."""
        made = self.idle_source(ledger)
        made.start()
        self.started.append(made)
        return made

    def idle_source(self, ledger: Ledger | None = None) -> GroupSource:
        """One to be driven by hand."""
        return GroupSource(self.lane, ledger or Ledger(), epoch=self.epoch)

    def issue(self, *positions: int) -> None:
        issued = self.lane.depth().issued
        self.lane.issue([Prompt(i, 0, 1, {}) for i in positions], after=issued, epoch=self.epoch)

    def complete(self, *positions: int) -> None:
        """Issue up to the last of them, and complete them in this order."""
        self.issue(*range(self.lane.depth().issued, max(positions) + 1))
        leases = {lease.prompt.id: lease for lease in self.tickets.lease("w", count=100, timeout_s=0)}
        for position in positions:
            assert self.tickets.complete(leases[position], group(position))

    def add_group(self, position: int) -> str:
        """What a Redis that came back a second older may hold: a group whose twin was learned from. Returns its entry."""
        claim, body = f"returned-{position}", encode_group(group(position))
        self.client.set(self.keys.body(claim), body)
        entry = self.client.xadd(self.keys.groups, {"id": position, "claim": claim, "size": len(body)})
        assert isinstance(entry, bytes)
        return entry.decode()

    def bodies(self) -> list[str]:
        return claims(self.client, self.run, expiring=False)

    def outstanding(self, source: GroupSource) -> int:
        return source.outstanding(self.lane.listing())


def reconcile(source: GroupSource) -> None:
    """Poll, and compare what is here with what is there."""
    source._reconciled_at = float("-inf")
    source.poll(0.001)


def taken_from(source: GroupSource, count: int) -> list[Delivery]:
    return source.take(count, timeout_s=5, idle=lambda: False)


@pytest.fixture
def stage(client: Client, run: str) -> Iterator[Stage]:
    made = Stage(client, run)
    yield made
    for source in made.started:
        source.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def test_what_is_settled_is_uncovered_until_a_checkpoint_is_begun(stage: Stage) -> None:
    stage.complete(0, 1, 2)
    source = stage.source()
    until(lambda: source.num_waiting == 3)
    source.settle(taken_from(source, 2), learned=False)
    assert source.num_uncovered == 2
    covered = source.settled()
    assert source.num_uncovered == 0 and stage.lane.depth().groups == 3
    source.settle(taken_from(source, 1))
    assert source.num_uncovered == 1, "those of a checkpoint under way are not counted again"
    source.acknowledge(covered)
    assert source.num_uncovered == 1 and stage.lane.depth().groups == 1


def test_the_oldest_come_first(stage: Stage) -> None:
    stage.complete(3, 1, 0, 2)
    source = stage.source()
    until(lambda: source.num_waiting == 4)
    taken = taken_from(source, 2)
    assert [delivery.group.prompt_id for delivery in taken] == [0, 1]
    assert source.num_waiting == 2
    source.settle(taken)
    assert source.ledger.ranges() == [(0, 2)] and len(source.settled()) == 2
    assert stage.lane.depth().groups == 4
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 2 and len(source.settled()) == 0


def test_what_was_not_acknowledged_comes_again_to_the_next_learner(stage: Stage) -> None:
    stage.complete(0, 1, 2, 3)
    first = stage.source()
    taken = taken_from(first, 3)
    first.settle(taken[:2])
    ledger = Ledger(first.ledger.ranges())  # of a checkpoint that covers 0 and 1, whose acknowledgement was lost
    first.settle(taken[2:])
    second = stage.source(ledger)
    until(lambda: second.num_waiting == 2)
    assert [d.group.prompt_id for d in taken_from(second, 2)] == [2, 3]
    assert len(second.settled()) == 2, "a repeated group is dropped only when a checkpoint makes its twin durable"
    second.acknowledge(second.settled())
    assert stage.lane.depth().groups == 2


def test_a_group_delivered_twice_is_acknowledged_with_its_twin(stage: Stage) -> None:
    stage.complete(0)
    stage.add_group(0)
    source = stage.source()
    until(lambda: source.num_waiting == 1)
    taken = taken_from(source, 1)
    until(lambda: stage.lane.depth().groups == 2)
    time.sleep(0.2)
    source.settle(taken)
    assert len(source.settled()) == 2 and source.ledger.ranges() == [(0, 1)]
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0


def test_rejected_groups_are_dead_letters(stage: Stage) -> None:
    stage.complete(0, 1)
    source = stage.source()
    taken = taken_from(source, 2)
    source.reject(taken, "the loss is nan")
    assert [letter.cause for letter in stage.dead.list()] == ["the loss is nan"] * 2
    assert stage.lane.depth().groups == 0 and len(source.settled()) == 0


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
        taken_from(source, 1)


def test_a_learner_whose_epoch_is_over_cannot_acknowledge(stage: Stage) -> None:
    stage.complete(0)
    source = stage.source()
    source.settle(taken_from(source, 1))
    stage.bulletin.lead()
    with pytest.raises(Fenced):
        source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 1


@pytest.mark.parametrize("late", [False, True], ids=["seen next", "below the cursor"])
def test_a_group_that_returns_is_acknowledged_again(stage: Stage, late: bool) -> None:
    """Redis lost the second in which it was acknowledged."""
    stage.complete(0)
    source = stage.idle_source()
    source.poll(0.001)
    source.settle(taken_from(source, 1))
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0 and stage.bodies() == []
    if late:
        source._after = LATE
    entry = stage.add_group(0)
    assert stage.outstanding(source) == 0
    reconcile(source)
    assert source.num_waiting == 0 and stage.outstanding(source) == 0
    assert [receipt.entry for receipt in source.settled()] == [entry]
    reconcile(source)
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0 and stage.bodies() == [] and source.settled() == []
    assert source.ledger.ranges() == [(0, 1)]


def test_a_group_below_the_cursor_is_found(stage: Stage) -> None:
    stage.complete(0, 1)
    source = stage.idle_source()
    source._after = LATE
    source._reconciled_at = time.monotonic() + 60
    source.poll(0.001)
    assert source.num_waiting == 0 and stage.outstanding(source) == 2
    for _ in range(2):
        reconcile(source)
        assert source.num_waiting == 2 and stage.outstanding(source) == 2
    assert [d.group.prompt_id for d in taken_from(source, 2)] == [0, 1]


def test_a_group_that_vanishes_while_it_waits_stays_usable(stage: Stage) -> None:
    """Redis lost the second in which it was completed; here, the prompt too."""
    stage.complete(0, 1)
    source = stage.idle_source()
    source.poll(0.001)
    first, second = stage.lane.listing().groups
    assert stage.lane.acknowledge([first], epoch=stage.epoch) == 1
    assert stage.outstanding(source) == 2
    reconcile(source)
    assert source.num_waiting == stage.outstanding(source) == 2
    taken = taken_from(source, 2)
    assert [d.group.prompt_id for d in taken] == [0, 1] and stage.outstanding(source) == 2
    reconcile(source)
    assert stage.outstanding(source) == 2
    source.settle(taken)
    assert stage.outstanding(source) == 0 and source.ledger.ranges() == [(0, 2)]
    reconcile(source)
    assert source.settled() == [second], "what is there no more is not waited for"


def test_a_group_that_vanished_and_is_completed_again_counts_once(stage: Stage) -> None:
    stage.complete(0)
    source = stage.idle_source()
    source.poll(0.001)
    stage.lane.acknowledge(stage.lane.listing().groups, epoch=stage.epoch)
    stage.lane.reissue([Prompt(0, 0, 1, {})], epoch=stage.epoch)
    (lease,) = stage.tickets.lease("w", count=1, timeout_s=1)
    assert stage.tickets.complete(lease, group(0))
    reconcile(source)
    assert source.num_waiting == stage.outstanding(source) == 1
    source.settle(taken_from(source, 1))
    assert stage.outstanding(source) == 0
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0 and stage.bodies() == []


def test_a_group_fetched_twice_is_one(stage: Stage) -> None:
    """Found by comparing just before it would have been fetched."""
    stage.complete(0)
    source = stage.idle_source()
    after = source._after
    source.poll(0.001)
    source._after = after
    source.poll(0.001)
    assert source.num_waiting == 1
    source.reject(taken_from(source, 1), "bad")
    reconcile(source)
    assert source.settled() == [] and stage.outstanding(source) == 0
    assert stage.lane.depth().dead == 1 and len(stage.bodies()) == 1


def test_a_rejected_group_that_is_tried_again_comes_again(stage: Stage) -> None:
    stage.complete(0)
    source = stage.idle_source()
    source.poll(0.001)
    source.reject(taken_from(source, 1), "bad")
    assert (
        stage.dead.retry(stage.dead.list())
        == stage.lane.resume(1, waiting=stage.lane.depth().again, epoch=stage.epoch)
        == 1
    )
    source.poll(0.001)
    source.settle(taken_from(source, 1))
    source.acknowledge(source.settled())
    assert stage.lane.positions() == set() and stage.bodies() == []


def test_an_unreadable_group_that_is_found_late_is_a_dead_letter(stage: Stage) -> None:
    stage.add_group(0)
    stage.client.set(stage.keys.body("returned-0"), b"x" * 10)
    source = stage.idle_source()
    source._after = LATE
    assert stage.outstanding(source) == 1
    reconcile(source)
    assert (source.num_waiting, stage.outstanding(source), stage.lane.depth().dead) == (0, 0, 1)


def test_a_rejected_group_whose_first_twin_redis_forgot_is_a_dead_letter_all_the_same(stage: Stage) -> None:
    """Its completion was lost with Redis's last second, and the prompt was answered again meanwhile."""
    stage.complete(0)
    source = stage.idle_source()
    source.poll(0.001)
    (forgotten,) = stage.lane.listing().groups
    stage.add_group(0)
    source.poll(0.001)
    stage.client.xdel(stage.keys.groups, forgotten.entry)
    source.reject(taken_from(source, 1), "the loss is nan")
    assert source.settled() == [] and stage.lane.depth().dead == 1 and stage.lane.positions() == {0}


def test_what_is_still_to_come_is_not_fetched_for_being_unknown(stage: Stage) -> None:
    source = stage.idle_source()
    source.poll(0.001)
    stage.complete(0, 1)
    source._reconcile()
    assert source.num_waiting == 0
    source.poll(0.001)
    assert source.num_waiting == 2 and [len(held) for held in source._held.values()] == [1, 1]


def test_a_group_that_is_unfit_is_dead_lettered_as_it_comes(client: Client, run: str) -> None:
    stage = Stage(client, run)
    source = GroupSource(
        stage.lane, Ledger(), epoch=stage.epoch, unfit=lambda group: "odd" if group.prompt_id % 2 else None
    )
    stage.complete(0, 1, 2, 3)
    source.poll(timeout_s=0.1)
    assert [d.group.prompt_id for d in source.take(2, timeout_s=1, idle=lambda: False)] == [0, 2]
    assert source.outstanding(stage.lane.listing()) == 2
    assert [(letter.position, letter.cause) for letter in stage.dead.list()] == [(1, "odd"), (3, "odd")]


def test_an_unfit_twin_of_a_group_that_waits_or_was_learned_from_is_no_dead_letter(stage: Stage) -> None:
    unfit: list[int] = []
    source = GroupSource(
        stage.lane, Ledger(), epoch=stage.epoch, unfit=lambda group: "odd" if group.prompt_id in unfit else None
    )
    stage.complete(0, 1)
    source.poll(timeout_s=0.1)
    source.settle(source.take(1, timeout_s=1, idle=lambda: False))
    unfit += [0, 1]
    for position in unfit:
        stage.add_group(position)
    source.poll(timeout_s=0.1)
    assert stage.dead.list() == []
    source.settle(source.take(1, timeout_s=1, idle=lambda: False))
    source.acknowledge(source.settled())
    assert stage.lane.depth().groups == 0
