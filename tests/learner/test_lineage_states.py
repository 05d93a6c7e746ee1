"""Whatever dies, in whatever order: nothing is lost, nothing counts twice, and the bound holds.

Three workers and a learner on a real redis-server which may, at any moment, come back as it was some commands ago. The
model beside it is the lineage: the batches that the living learner's state rests on.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, connect
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import Fenced
from areal.broker.keys import LaneKeys
from areal.broker.lane import Lane, Receipt
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Lease, Tickets
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.feeder import Feeder, Flow
from areal.learner.ledger import Ledger
from areal.learner.source import GroupSource

from ..broker.samples import group

BATCH = 2
BOUND = 3 * BATCH  # η = 2
WORKERS = st.sampled_from("abc")
DATASET = Dataset(DatasetConfig(source="sort", eval_size=0))


class Past:
    """A redis-server that writes every command to its append-only file at once, which can then be cut."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedRedis(directory)
        self._server.start()
        self.client: Client = connect(self._server.url, timeout_s=10.0)
        self._write_at_once()

    def mark(self) -> int:
        """What can be gone back to: everything up to now."""
        return self._file().stat().st_size

    def go_back(self, mark: int) -> None:
        """Kill the server and start it on what it had written at the mark."""
        os.kill(self._server.pid, signal.SIGKILL)
        while self._server.alive:
            time.sleep(0.001)
        os.truncate(self._file(), mark)
        self._server.start()
        self._write_at_once()

    def forget(self) -> None:
        """Begin anew, with a short file."""
        self.client.flushall()

    def stop(self) -> None:
        self.client.close()
        self._server.stop()

    def _write_at_once(self) -> None:
        self.client.config_set("appendfsync", "always")
        self.client.config_set("auto-aof-rewrite-percentage", 0)

    def _file(self) -> Path:
        """One file up to Redis 6, the incremental one of several from 7 on."""
        return max([*self._directory.glob("appendonly.aof"), *self._directory.glob("appendonlydir/*.incr.aof")])


@dataclass
class Checkpoint:
    """What a learner would find on disk."""

    trained: list[tuple[int, int]]
    lineage: list[list[int]]


class Learner:
    """A learner's part in the protocol, without a model."""

    def __init__(self, client: Client, run: str, checkpoint: Checkpoint) -> None:
        self.epoch = Bulletin(client, run).lead()
        self.lane = Lane(client, run, "train")
        self.source = GroupSource(self.lane, Ledger(checkpoint.trained), epoch=self.epoch)
        self.feeder = Feeder(
            self.lane,
            DATASET,
            self.source,
            Flow(max_outstanding=BOUND, max_dead_letters=10**6, group_size=1, epoch=self.epoch),
        )
        self.lineage = [list(batch) for batch in checkpoint.lineage]
        self.covered: list[list[Receipt]] = []  # by durable checkpoints, not acknowledged yet

    def poll(self) -> None:
        self.source._reconciled_at = 0.0
        self.source.poll(timeout_s=0.001)

    def step(self) -> None:
        taken = self.source.take(BATCH, timeout_s=1, idle=lambda: False)
        self.source.settle(taken)
        self.lineage.append([delivery.group.prompt_id for delivery in taken])

    def checkpoint(self) -> Checkpoint:
        self.covered.append(self.source.settled())
        return Checkpoint(self.source.ledger.ranges(), [list(batch) for batch in self.lineage])


class Life(RuleBasedStateMachine):
    past: Past
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.past.forget()
        self.client = self.past.client
        self.keys = LaneKeys("run", "train")
        self.letters = DeadLetters(self.client, "run", "train")
        self.workers = {name: Tickets(self.client, "run", "train", BrokerConfig(lease_s=1e-4)) for name in "abc"}
        self.leases: list[tuple[str, Lease]] = []
        self.checkpoints = [Checkpoint([], [])]
        self.learner = Learner(self.client, "run", self.checkpoints[0])
        self.fallen: Learner | None = None
        self.marks = [self.past.mark()]

    # What happens most

    def issue(self) -> None:
        if self.learner.feeder.top_up(version=0, needed=1000):
            assert self._outstanding() <= BOUND

    @rule(worker=WORKERS, count=st.integers(1, 6))
    def work(self, worker: str, count: int) -> None:
        self.issue()
        for lease in self._lease(worker, count, reclaim=True):
            self.seen["completed"] += self.workers[worker].complete(lease, group(lease.prompt.id))

    @rule()
    def learn(self) -> None:
        self.learner.poll()
        if self.learner.source.num_waiting >= BATCH:
            self.learner.step()
            self.seen["steps"] += 1

    @rule(worker=WORKERS, count=st.integers(2, 6))
    def work_and_learn(self, worker: str, count: int) -> None:
        self.work(worker, count)
        self.learn()

    @rule(acknowledged=st.booleans())
    def write_checkpoint(self, acknowledged: bool) -> None:
        self.checkpoints.append(self.learner.checkpoint())
        if acknowledged:
            self.acknowledge()

    @rule()
    def acknowledge(self) -> None:
        for receipts in self.learner.covered:
            self.learner.source.acknowledge(receipts)
            self.seen["acknowledged"] += len(receipts)
        self.learner.covered.clear()

    # What goes wrong

    @rule(back=st.sampled_from([0, 0, 0, 1, 2]))
    def the_learner_dies(self, back: int) -> None:
        """The next one finds the newest checkpoint, or one before it."""
        self.fallen = self.learner
        del self.checkpoints[max(1, len(self.checkpoints) - back) :]
        self.learner = Learner(self.client, "run", self.checkpoints[-1])
        self.seen["learners died"] += 1

    @precondition(lambda self: self.fallen is not None)
    @rule()
    def the_fallen_learner_wakes(self) -> None:
        """It was only stopped. Whatever it does is refused."""
        assert self.fallen is not None
        self.learner.lane.resume(
            1, waiting=self.learner.lane.depth().again, epoch=self.learner.epoch
        )  # its beginning may be lost with Redis's last second
        epoch = {"epoch": self.fallen.epoch}
        with pytest.raises(Fenced):
            self.fallen.lane.acknowledge([Receipt("1-1", 0, "claim", 1)], **epoch)
        with pytest.raises(Fenced):
            self.fallen.lane.resume(1, waiting=self.fallen.lane.depth().again, **epoch)

    @rule()
    def a_batch_is_refused(self) -> None:
        source = self.learner.source
        self.learner.poll()
        if source.num_waiting >= BATCH:
            source.reject(source.take(BATCH, timeout_s=1, idle=lambda: False), "the loss is nan")
            self.learner.feeder.look_again()
            self.seen["rejected"] += BATCH

    @rule(worker=WORKERS, count=st.integers(1, 3), reclaim=st.booleans())
    def a_worker_falls_silent(self, worker: str, count: int, reclaim: bool) -> None:
        """It holds prompts whose leases expire at once, and may come back to them."""
        self.issue()
        self.leases += [(worker, lease) for lease in self._lease(worker, count, reclaim)]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def it_completes_after_all(self, data: st.DataObject, keep: bool) -> None:
        worker, lease = self._pick(data, keep)
        self.seen["late"] += self.workers[worker].complete(lease, group(lease.prompt.id))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans(), how=st.sampled_from(["fail", "release", "renew"]))
    def it_gives_up_after_all(self, data: st.DataObject, keep: bool, how: str) -> None:
        worker, lease = self._pick(data, keep)
        tickets = self.workers[worker]
        if how == "fail":
            tickets.fail(worker, lease, "failed")
        elif how == "release":
            tickets.release(worker, lease)
        else:
            tickets.renew(worker, [lease])

    @rule(retry=st.booleans())
    def a_person_decides(self, retry: bool) -> None:
        (self.letters.retry if retry else self.letters.drop)(self.letters.list(count=2))

    @rule(back=st.integers(1, 12))
    def redis_comes_back_older(self, back: int) -> None:
        """As it was before the last few of all these rules."""
        self.marks = self.marks[: max(1, len(self.marks) - back)]
        self.past.go_back(self.marks[-1])
        self.seen["rollbacks"] += 1

    # What must hold

    @invariant()
    def every_moment_can_be_gone_back_to(self) -> None:
        self.marks.append(self.past.mark())

    @invariant()
    def what_was_learned_counts_once(self) -> None:
        learned = [position for batch in self.learner.lineage for position in batch]
        assert len(learned) == len(set(learned))
        assert sorted(learned) == [p for start, end in self.learner.source.ledger.ranges() for p in range(start, end)]

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every position that Redis knows to be issued is somewhere, or known by the learner to be lost."""
        self.learner.feeder.top_up(version=0, needed=0)
        lane, source = self.learner.lane, self.learner.source
        assert set(source.ledger.missing(lane.depth().issued, lane.positions())) == set(self.learner.feeder._lost)

    @invariant()
    def every_group_has_its_bytes(self) -> None:
        claims = {
            fields[b"claim"]
            for name in ("groups", "dead", "again")
            for fields in self._entries(name)
            if b"claim" in fields
        }
        bodies: Any = self.client.keys(self.keys.body("*"))
        assert {body.rpartition(b":")[2] for body in bodies if self.client.ttl(body) == -1} == claims

    def teardown(self) -> None:
        """Left in peace, the parties come to rest, and every position is learned, dead or dropped."""
        learner, worker = self.learner, self.workers["a"]
        for _ in range(50):
            learner.feeder.top_up(version=0, needed=BATCH)
            time.sleep(0.001)
            for lease in self._lease("a", 20, reclaim=True):
                worker.complete(lease, group(lease.prompt.id))
            self.learn()
            self.write_checkpoint(acknowledged=True)
            depth = learner.lane.depth()
            if depth.prompts == 0 and depth.groups < BATCH and depth.again == 0 and not learner.feeder._lost:
                break
        else:
            raise AssertionError(f"no rest: {depth}, {learner.source.num_waiting} waiting")
        self.what_was_learned_counts_once()
        self.nothing_is_lost()

    def _outstanding(self) -> int:
        """Counted from what Redis holds, and what the learner has of it or alone."""
        learner = self.learner
        groups = {int(fields[b"id"]) for fields in self._entries("groups")} | set(learner.source._held)
        learned = {position for batch in learner.lineage for position in batch}
        return len(self._entries("prompts")) + len(groups - learned)

    def _lease(self, worker: str, count: int, reclaim: bool) -> list[Lease]:
        tickets: Any = self.workers[worker]
        tickets._reclaimed_at = 0.0 if reclaim else float("inf")
        leases: list[Lease] = tickets.lease(worker, count=count, timeout_s=0)
        return leases

    def _entries(self, name: str) -> list[dict[bytes, bytes]]:
        found: Any = self.client.xrange(self.keys.of(name))
        return [fields for _, fields in found]

    def _pick(self, data: st.DataObject, keep: bool) -> tuple[str, Lease]:
        index = data.draw(st.integers(0, len(self.leases) - 1))
        return self.leases[index] if keep else self.leases.pop(index)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    made = Past(tmp_path)
    yield made
    made.stop()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_counts_twice(past: Past) -> None:
    """The counts at the end say that the lives were worth living."""
    Life.past, Life.seen = past, Counter()
    lives = int(os.environ.get("AREAL_LIVES", "40"))
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=lives,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what in ("completed", "steps", "acknowledged", "rejected", "learners died", "rollbacks"):
        assert Life.seen[what] > lives, Life.seen
    assert Life.seen["late"] > 0, Life.seen
