"""The bound of AReaL, whatever the order of completion, training and loss."""

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.errors import Fenced, TooManyDeadLetters
from areal.broker.lane import Depth, Lane, Receipt
from areal.broker.tickets import Tickets
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.feeder import Feeder, Flow
from areal.learner.ledger import Ledger
from areal.learner.source import GroupSource

from ..broker.samples import group
from .test_source import Stage, reconcile, taken_from

DATASET = Dataset(DatasetConfig(source="sort", eval_size=0))

MAX_DEAD_LETTERS = 50


class Rows:
    """A feeder over rows that are made on the fly."""

    def __init__(self, stage: Stage, source: GroupSource, max_outstanding: int) -> None:
        self.feeder = Feeder(
            stage.lane,
            DATASET,
            source,
            Flow(max_outstanding=max_outstanding, max_dead_letters=MAX_DEAD_LETTERS, group_size=2, epoch=stage.epoch),
        )

    def top_up(self, needed: int = 10**6) -> int:
        return self.feeder.top_up(version=0, needed=needed)


@pytest.fixture
def stage(client: Client, run: str) -> Stage:
    return Stage(client, run)


def waiting(stage: Stage) -> list[int]:
    """The positions that no worker has leased yet, in the order in which they will be."""
    return [lease.prompt.id for lease in stage.tickets.lease("w", count=100, timeout_s=0)]


def lose(stage: Stage, *positions: int) -> None:
    """Have Redis forget these of the prompts."""
    prompts: Any = stage.client.xrange(stage.keys.prompts)
    for entry, fields in prompts:
        if int(fields[b"id"]) in positions:
            stage.client.xdel(stage.keys.prompts, entry)


def kill(stage: Stage, *positions: int) -> None:
    """Lease what waits, and let these of it die; the rest is completed."""
    once = Tickets(stage.client, stage.run, "train", BrokerConfig(lease_s=60, max_attempts=1))
    for lease in stage.tickets.lease("w", count=100, timeout_s=0):
        if lease.prompt.id in positions:
            assert not once.fail("w", lease, "failed")
        else:
            assert stage.tickets.complete(lease, group(lease.prompt.id))


def test_prompts_are_issued_up_to_the_bound(stage: Stage) -> None:
    source = stage.idle_source()
    rows = Rows(stage, source, max_outstanding=6)
    assert [rows.top_up(), rows.top_up()] == [6, 0]
    leases = stage.tickets.lease("w", count=6, timeout_s=1)
    assert [lease.prompt.row for lease in leases] == [DATASET.train_row(position) for position in range(6)]
    for lease in leases[:3]:
        stage.tickets.complete(lease, group(lease.prompt.id))
    assert rows.top_up() == 0
    source.poll(0.001)
    taken = taken_from(source, 2)
    assert rows.top_up() == 0
    source.settle(taken)
    assert rows.top_up() == 2
    source.acknowledge(source.settled())
    assert rows.top_up() == 0
    once = Tickets(stage.client, stage.run, "train", BrokerConfig(max_attempts=1))
    assert not once.fail("w", leases[5], "lost on the way")
    assert stage.lane.depth().dead == 1
    assert rows.top_up() == 1


def test_no_more_are_issued_than_the_run_still_needs(stage: Stage) -> None:
    rows = Rows(stage, stage.idle_source(), max_outstanding=6)
    assert [rows.top_up(needed=4), rows.top_up(needed=4), rows.top_up(needed=0)] == [4, 0, 0]


def test_topping_up_amid_an_acknowledgement_keeps_the_bound(client: Client, run: str) -> None:
    issued: list[int] = []

    class Slow(Lane):
        """Whose reply to an acknowledgement is still on its way while the learner tops up."""

        def acknowledge(self, receipts: Sequence[Receipt], *, epoch: int) -> int:
            gone = super().acknowledge(receipts, epoch=epoch)
            issued.append(rows.top_up())
            return gone

    stage = Stage(client, run)
    stage.lane = Slow(client, run, "train")
    source = stage.idle_source()
    rows = Rows(stage, source, max_outstanding=4)
    rows.top_up()
    stage.complete(0, 1, 2, 3)
    source.poll(0.001)
    source.settle(taken_from(source, 4))
    assert rows.top_up() == 4
    source.acknowledge(source.settled())
    assert issued == [0]
    assert stage.lane.depth().prompts == 4


def test_positions_that_are_nowhere_are_issued_first_and_once(stage: Stage) -> None:
    """0 and 1 are learned from, 2 is completed, 3 dropped, 6 dead, 8 and 9 wait."""
    stage.issue(2, 3, 6)
    kill(stage, 3, 6)
    assert stage.dead.drop(stage.dead.list(count=1)) == 1
    stage.issue(8, 9)
    source = stage.idle_source(Ledger([(0, 2)]))
    rows = Rows(stage, source, max_outstanding=6)
    assert rows.top_up() == 3
    assert waiting(stage) == [8, 9, 4, 5, 7]
    assert rows.top_up() == 0
    source.poll(0.001)
    source.settle(taken_from(source, 1))
    source.acknowledge(source.settled())
    assert rows.top_up() == 1
    assert waiting(stage) == [10]


def test_what_is_lost_waits_for_room(stage: Stage) -> None:
    stage.issue(5)
    source = stage.idle_source()
    rows = Rows(stage, source, max_outstanding=3)
    assert rows.top_up() == 2
    assert waiting(stage) == [5, 0, 1]
    lose(stage, 5, 0, 1)
    assert rows.top_up() == 3
    assert waiting(stage) == [2, 3, 4]


def test_a_server_that_is_another_is_asked_what_it_has_lost(stage: Stage) -> None:
    source = stage.idle_source()
    rows = Rows(stage, source, max_outstanding=4)
    rows.top_up()
    lose(stage, 0, 3)
    assert rows.top_up() == 2
    assert waiting(stage) == [1, 2, 4, 5], "the same server loses nothing"
    rows.feeder._server = "the one before"
    assert rows.top_up() == 0
    lose(stage, 1, 2, 4, 5)
    assert rows.top_up() == 4
    assert waiting(stage) == [0, 3, 6, 7]


def test_positions_that_were_learned_from_are_passed_over(stage: Stage) -> None:
    """Redis has forgotten that it issued them."""
    rows = Rows(stage, stage.idle_source(Ledger([(0, 2), (3, 5), (7, 8)])), max_outstanding=4)
    assert rows.top_up() == 4
    assert waiting(stage) == [2, 5, 6, 8]
    assert stage.lane.depth().issued == 9


def test_letters_are_tried_again_when_there_is_room_before_anything_new(stage: Stage) -> None:
    source = stage.idle_source()
    rows = Rows(stage, source, max_outstanding=3)
    rows.top_up()
    kill(stage, 0, 1)
    assert rows.top_up() == 2
    assert stage.dead.retry(stage.dead.list()) == 2
    assert rows.top_up() == 0 and stage.lane.depth().again == 2
    source.poll(0.001)
    source.settle(taken_from(source, 1))
    assert rows.top_up() == 1
    assert waiting(stage) == [3, 4, 0]
    assert stage.outstanding(source) == 3 and stage.lane.depth().again == 1


def test_a_dropped_position_is_never_issued_again(stage: Stage) -> None:
    rows = Rows(stage, stage.idle_source(), max_outstanding=2)
    rows.top_up()
    kill(stage, 0, 1)
    assert stage.dead.drop(stage.dead.list()) == 2
    assert rows.top_up() == 2
    next_learner = Rows(stage, stage.idle_source(), max_outstanding=4)
    assert next_learner.top_up() == 2
    assert waiting(stage) == [2, 3, 4, 5]


def test_a_learner_whose_epoch_is_over_issues_nothing(stage: Stage) -> None:
    lost = Rows(stage, stage.idle_source(), max_outstanding=2)
    stage.issue(3)
    Bulletin(stage.client, stage.run).lead()
    with pytest.raises(Fenced):
        lost.top_up()
    assert stage.lane.positions() == {3}


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3),
    max_staleness=st.integers(0, 3),
    moves=st.lists(
        st.tuples(
            st.sampled_from(["complete", "complete", "train", "acknowledge", "die", "reject", "retry", "drop"]),
            st.integers(1, 4),
        ),
        max_size=20,
    ),
)
def test_no_more_is_outstanding_than_allowed(
    client: Client, batch: int, max_staleness: int, moves: list[tuple[str, int]]
) -> None:
    stage = Stage(client, uuid.uuid4().hex)
    once = Tickets(client, stage.run, "train", BrokerConfig(max_attempts=1))
    source = stage.idle_source()
    bound = (max_staleness + 1) * batch
    rows = Rows(stage, source, max_outstanding=bound)
    steps = 0
    for move, count in moves:
        rows.top_up()
        reconcile(source)
        depth = stage.lane.depth()
        laid_aside = depth.dead + depth.again + depth.dropped
        assert stage.outstanding(source) == depth.issued - laid_aside - len(source.ledger) == bound
        assert depth.issued - laid_aside <= (steps + max_staleness + 1) * batch
        if move == "complete":
            for lease in stage.tickets.lease("w", count=count, timeout_s=0):
                assert stage.tickets.complete(lease, group(lease.prompt.id))
        elif move == "die":
            for lease in once.lease("w", count=count, timeout_s=0):
                assert not once.fail("w", lease, "failed")
        elif move == "train" and source.num_waiting >= batch:
            source.settle(taken_from(source, batch))
            steps += 1
        elif move == "reject" and source.num_waiting:
            source.reject(taken_from(source, 1), "the loss is nan")
        elif move == "acknowledge":
            source.acknowledge(source.settled())
        elif move == "retry":
            stage.dead.retry(stage.dead.list(count=count))
        elif move == "drop":
            stage.dead.drop(stage.dead.list(count=1))


def test_letters_that_went_back_before_their_reply_was_lost_count(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is made again, finds that nothing waits any more as it thought, and says that it moved nothing."""
    rows = Rows(stage, stage.idle_source(), max_outstanding=4)
    rows.top_up()
    once = Tickets(stage.client, stage.run, "train", BrokerConfig(max_attempts=1))
    for lease in once.lease("w", count=4, timeout_s=0):
        assert not once.fail("w", lease, "failed")
    assert stage.dead.retry(stage.dead.list()) == 4
    resume = stage.lane.resume

    def twice(count: int, *, waiting: int, epoch: int) -> int:
        assert resume(count, waiting=waiting, epoch=epoch) == count
        return resume(count, waiting=waiting, epoch=epoch)

    monkeypatch.setattr(stage.lane, "resume", twice)
    rows.top_up()
    assert stage.lane.depth() == Depth(issued=4, prompts=4, groups=0, dead=0)


def test_a_run_whose_prompts_keep_failing_ends(stage: Stage) -> None:
    rows = Rows(stage, stage.idle_source(), max_outstanding=MAX_DEAD_LETTERS + 1)
    once = Tickets(stage.client, stage.run, "train", BrokerConfig(max_attempts=1))
    rows.top_up()
    for lease in once.lease("w", count=MAX_DEAD_LETTERS + 1, timeout_s=0):
        once.fail("w", lease, "failed")
    with pytest.raises(
        TooManyDeadLetters, match=r"51 prompts .* more than broker.max_dead_letters \(50\): `areal dead"
    ):
        rows.top_up()
    stage.dead.drop(stage.dead.list(count=1))
    assert rows.top_up() == MAX_DEAD_LETTERS + 1


def over_rows(stage: Stage, source: GroupSource, path: Path, teaches: Callable[[int], bool]) -> Feeder:
    """A feeder over a file of five rows."""
    path.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(5)))
    return Feeder(
        stage.lane,
        Dataset(DatasetConfig(source=str(path), eval_size=0)),
        source,
        Flow(max_outstanding=4, max_dead_letters=MAX_DEAD_LETTERS, group_size=2, epoch=stage.epoch),
        teaches=teaches,
    )


def test_rows_that_teach_nothing_are_passed_over(stage: Stage, tmp_path: Path) -> None:
    source = stage.idle_source()
    feeder = over_rows(stage, source, tmp_path / "rows.jsonl", lambda position: position % 3 != 0)
    assert feeder.top_up(version=0, needed=100) == 4
    assert waiting(stage) == [1, 2, 4, 5]
    assert source.ledger.ranges() == [(0, 1), (3, 4)] and source.filtered == 2
    assert source.outstanding(stage.lane.listing()) == 4
    assert feeder.top_up(version=0, needed=100) == 0


def test_where_no_row_teaches_anything_there_is_still_something_to_do(stage: Stage, tmp_path: Path) -> None:
    source = stage.idle_source()
    feeder = over_rows(stage, source, tmp_path / "rows.jsonl", lambda position: False)
    assert feeder.top_up(version=0, needed=2) == 2
    assert waiting(stage) == [5, 11], "an epoch is passed over before each"
    assert source.filtered == 10
