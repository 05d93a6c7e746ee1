"""Ranks that look for each other; that they find each other is tested with those that train (test_follower.py)."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.errors import BrokerError, DeadlineExceeded, RoleDied
from areal.broker.meeting import Meeting, Place
from areal.learner import muster, orders, shares
from areal.learner.orders import Order, Orders
from areal.learner.ranks import LOOPBACK, blaming_others
from areal.learner.shares import Shares


@pytest.fixture
def store() -> Iterator[Any]:
    yield TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)


def other(store: Any) -> Any:
    return TCPStore(LOOPBACK, store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))


def test_a_leader_says_who_is_missing(client: Client, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muster, "MUSTER_S", 0.3)
    epoch = Bulletin(client, run).lead()
    meeting = Meeting(client, run)
    with pytest.raises(DeadlineExceeded, match=r"rank 1 of the learner .* see logs/learner-1.log"):
        muster.lead(meeting, epoch=epoch, host=LOOPBACK, count=3)
    place = meeting.place()
    assert place is not None and (place.epoch, place.host, place.count) == (epoch, LOOPBACK, 3)


def test_a_rank_takes_no_seat_that_is_taken(
    client: Client, run: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was another's, of a leader that is about to notice that this one died; nobody listens at the next place."""
    monkeypatch.setattr(muster, "MUSTER_S", 1.5)
    bulletin, meeting = Bulletin(client, run), Meeting(client, run)
    epoch = bulletin.lead()
    meeting.announce(Place(epoch, LOOPBACK, store.port, 2))
    store.add("seat/1", 1)

    def lead_anew() -> None:
        time.sleep(0.5)
        meeting.announce(Place(bulletin.lead(after=epoch), LOOPBACK, 1, 2))

    thread = Thread(target=lead_anew)
    thread.start()
    with pytest.raises(DeadlineExceeded, match="rank 1 found no learner to follow"):
        muster.follow(meeting, 1)
    thread.join()
    assert store.add("seat/1", 0) == 2, "it asked once, and not again"


def test_orders_come_in_turn(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LISTEN_S", 0.2)
    monkeypatch.setattr(orders, "KEPT", 2)
    leader, follower = Orders(store), Orders(other(store))
    leader.give("begin", step=3)
    leader.give("weights", by_leader=True)
    assert [follower.take(), follower.take()] == [Order("begin", {"step": 3}), Order("weights", {"by_leader": True})]
    Thread(target=lambda: (time.sleep(0.5), leader.give("end"))).start()
    assert follower.take() == Order("end", {})
    assert store.num_keys() <= 3


def test_a_rank_waits_for_orders_so_long(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LISTEN_S", 0.1)
    monkeypatch.setattr(orders, "WAIT_S", 0.3)
    with pytest.raises(DeadlineExceeded, match="said nothing"):
        Orders(store).take()


def test_a_file_of_each_comes_into_the_folder(store: Any, tmp_path: Path) -> None:
    leader, follower = Shares(store, rank=0, count=2), Shares(other(store), rank=1, count=2)
    thread = Thread(target=follower.contribute, args=("weights/7", lambda folder: (folder / "b").write_text("its")))
    thread.start()
    leader.collect("weights/7", tmp_path)
    thread.join()
    assert (tmp_path / "b").read_text() == "its"
    assert store.num_keys() <= 1


def test_a_leader_hears_what_went_wrong(store: Any, tmp_path: Path) -> None:
    leader, follower = Shares(store, rank=0, count=2), Shares(other(store), rank=1, count=2)
    raised: list[Exception] = []

    def contribute() -> None:
        try:
            follower.contribute("weights/7", lambda folder: (folder / "no" / "b").write_text("its"))
        except OSError as error:
            raised.append(error)

    thread = Thread(target=contribute)
    thread.start()
    with pytest.raises(BrokerError, match=r"rank 1 could not write its part of .*FileNotFoundError"):
        leader.collect("weights/7", tmp_path)
    thread.join()
    assert len(raised) == 1


def test_a_leader_waits_for_a_part_so_long(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "WRITE_TIMEOUT_S", 0.2)
    with pytest.raises(DeadlineExceeded, match=r"did not do its part \(weights/7/1\) within 0.2 s"):
        Shares(store, rank=0, count=2).collect("weights/7", tmp_path)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer\nmore"), RoleDied),
        (DistError("NCCL"), RoleDied),
        (RuntimeError("shape mismatch"), RuntimeError),
    ],
)
def test_only_what_another_rank_did_is_blamed_on_it(error: Exception, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught, blaming_others():
        raise error
    assert type(caught.value) is raised and "more" not in str(caught.value)
