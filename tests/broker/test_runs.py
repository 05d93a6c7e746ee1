"""Many runs on one Redis: they do not see each other, and one can be deleted to the last key."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.chunks import RedisChunks
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.lane import Lane
from areal.broker.rollcall import Member, RollCall
from areal.broker.runs import count_keys, list_runs, purge
from areal.broker.tickets import Tickets
from areal.broker.transport import SharedDirectory
from areal.broker.weights import WeightStore

from .samples import group, prompts

NAMES = ["a", "a:b", "ab", "a*", "a?", "[ab]", "a\\", "a-1", "{a"]


@pytest.fixture
def prefix(client: Client) -> Iterator[str]:
    """Runs of this test have names that begin so; the others on the server are none of its business."""
    made = uuid.uuid4().hex
    yield made
    for run in list_runs(client):
        if run.startswith(made):
            purge(client, run)


def live(client: Client, run: str, folder: Path) -> None:
    """Leave behind every kind of key that a run may have."""
    epoch = Bulletin(client, run).lead()
    Bulletin(client, run).report({"kind": "event", "time": 0})
    Bulletin(client, run).keep_order("drain")
    RollCall(client, run, silent_after_s=1).beat(Member("w", "rollout", "host", 1, 0, 0, 0))
    WeightStore(client, run, RedisChunks(client, run)).publish(
        0, lambda to: (to / "model.safetensors").write_text("weights"), epoch=epoch
    )
    for name in ("train", "eval"):
        lane, tickets = Lane(client, run, name), Tickets(client, run, name, BrokerConfig(max_attempts=1))
        lane.issue(prompts(0, 6), after=0, epoch=epoch)
        leases = tickets.lease("w", count=5, timeout_s=1)
        for lease in leases[:2]:
            tickets.complete(lease, group(lease.prompt.id))
        for lease in leases[2:]:
            tickets.fail("w", lease, "failed")
        letters = DeadLetters(client, run, name)
        one, other, _ = letters.list()
        letters.retry([one])
        letters.drop([other])


def keys(client: Client, run: str) -> list[bytes]:
    """All that the server has for a run, found without the code under test."""
    return [key for key in client.keys("*") if b"{" + run.encode() + b"}" in key]  # type: ignore[union-attr]


def test_a_purged_run_leaves_nothing_and_the_others_everything(client: Client, prefix: str, tmp_path: Path) -> None:
    runs = [prefix + name for name in NAMES]
    for run in runs:
        live(client, run, tmp_path / "weights")
    everything = {run: sorted(keys(client, run)) for run in runs}
    assert all(len(found) >= 14 for found in everything.values())
    assert [run for run in list_runs(client) if run.startswith(prefix)] == sorted(runs)
    assert {run: count_keys(client)[run] for run in runs} == {run: len(found) for run, found in everything.items()}
    for index, run in enumerate(runs):
        assert purge(client, run) == len(everything[run])
        assert keys(client, run) == []
        for other in runs[index + 1 :]:
            assert sorted(keys(client, other)) == everything[other]
    assert not any(run.startswith(prefix) for run in list_runs(client))


def test_a_run_that_is_not_there_is_purged_of_nothing(client: Client) -> None:
    assert purge(client, uuid.uuid4().hex) == 0


def test_runs_do_not_see_each_other(client: Client, prefix: str, tmp_path: Path) -> None:
    live(client, prefix + "one", tmp_path)
    other = prefix + "other"
    lane = Lane(client, other, "train")
    assert lane.depth().issued == 0 and lane.positions() == set() and lane.listing().groups == ()
    assert lane.take("0", count=9, timeout_s=0.01) == ([], "0")
    assert Tickets(client, other, "train", BrokerConfig()).lease("w", count=9, timeout_s=0) == []
    assert DeadLetters(client, other, "train").list() == []
    assert Bulletin(client, other).read("0", timeout_s=0.01) == ([], "0")
    assert Bulletin(client, other).ordered() == "run"
    assert WeightStore(client, other, SharedDirectory(tmp_path)).latest() is None
