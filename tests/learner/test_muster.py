"""Ranks that look for each other; that they find each other is tested with those that train (test_follower.py)."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from torch.distributed import (  # type: ignore[attr-defined]
    DistBackendError,
    DistNetworkError,
    PrefixStore,
    TCPStore,
)

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.errors import BrokerError, ConfigError, DeadlineExceeded, RoleDied
from areal.broker.meeting import Meeting, Place
from areal.learner import muster, orders, ranks, shares
from areal.learner.orders import Order, Orders
from areal.learner.ranks import LOOPBACK, Company, Ranks, blaming_others
from areal.learner.shares import Shares

DUPLICATE = (
    "NCCL error in: NCCLUtils.cpp:94, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.5\n"
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
)


@pytest.fixture
def store() -> Iterator[Any]:
    yield TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)


def other(store: Any) -> Any:
    return TCPStore(LOOPBACK, store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that have found each other are left at that."""
    monkeypatch.setattr(muster, "join", lambda store, *, rank, count, host: (rank, count, host))


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each returns or raises, all being called at once."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def test_ranks_that_share_a_directory_meet(client: Client, run: str, tmp_path: Path, joined: None) -> None:
    epoch, meeting = Bulletin(client, run).lead(), Meeting(client, run)
    met = together(
        lambda: muster.lead(meeting, epoch=epoch, host=LOOPBACK, count=3, directory=tmp_path),
        lambda: muster.follow(meeting, 2, host="127.0.0.1", directory=tmp_path),
        lambda: muster.follow(meeting, 1, host="127.0.0.1", directory=tmp_path),
    )
    assert met == [(0, 3, LOOPBACK), (2, 3, LOOPBACK), (1, 3, LOOPBACK)]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_ranks_that_share_no_directory_all_refuse(
    client: Client, run: str, tmp_path: Path, joined: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muster, "SEE_S", 0.3)
    epoch, meeting = Bulletin(client, run).lead(), Meeting(client, run)
    (tmp_path / "its").mkdir()
    met = together(
        lambda: muster.lead(meeting, epoch=epoch, host=LOOPBACK, count=2, directory=tmp_path / "mine"),
        lambda: muster.follow(meeting, 1, host="127.0.0.1", directory=tmp_path / "its"),
    )
    assert [type(error) for error in met] == [ConfigError, ConfigError]
    assert all("must share the run directory" in str(error) and f"{tmp_path}/its" in str(error) for error in met)


def test_a_leader_says_who_is_missing(
    client: Client, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muster, "MUSTER_S", 0.3)
    epoch = Bulletin(client, run).lead()
    meeting = Meeting(client, run)
    with pytest.raises(DeadlineExceeded, match=r"rank 1 of the learner .* see logs/learner-1.log"):
        muster.lead(meeting, epoch=epoch, host=LOOPBACK, count=3, directory=tmp_path)
    place = meeting.place()
    assert place is not None and (place.epoch, place.host, place.count) == (epoch, LOOPBACK, 3)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_rank_takes_no_seat_that_is_taken(
    client: Client, run: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was another's, of a leader that is about to notice that this one died; nobody listens at the next place."""
    monkeypatch.setattr(muster, "MUSTER_S", 1.5)
    bulletin, meeting = Bulletin(client, run), Meeting(client, run)
    epoch = bulletin.lead()
    place = Place(epoch, LOOPBACK, store.port, 2)
    meeting.announce(place)
    own = PrefixStore(place.token, store)
    own.set("leader", "")
    own.add("seat/1", 1)

    def lead_anew() -> None:
        time.sleep(0.5)
        meeting.announce(Place(bulletin.lead(after=epoch), LOOPBACK, 1, 2))

    thread = Thread(target=lead_anew)
    thread.start()
    with pytest.raises(DeadlineExceeded, match="rank 1 found no learner to follow"):
        muster.follow(meeting, 1, host="127.0.0.1", directory=tmp_path)
    thread.join()
    assert own.add("seat/1", 0) == 2, "it asked once, and not again"


@pytest.mark.parametrize("whose", ["nobody's", "another's"])
def test_a_rank_takes_no_seat_where_another_listens_than_who_announced_it(
    client: Client, run: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """The leader has died, and its port was given to the next who asked."""
    monkeypatch.setattr(muster, "MUSTER_S", 1.0)
    place = Place(Bulletin(client, run).lead(), LOOPBACK, store.port, 2)
    Meeting(client, run).announce(place)
    if whose == "another's":
        PrefixStore(Place(1, LOOPBACK, store.port, 2).token, store).set("leader", "")
    keys = store.num_keys()
    with pytest.raises(DeadlineExceeded, match="rank 1 found no learner to follow"):
        muster.follow(Meeting(client, run), 1, host="127.0.0.1", directory=tmp_path)
    assert store.num_keys() == keys


def test_the_leader_stays_until_the_others_have_left(store: Any, left: list[str]) -> None:
    def follower() -> None:
        time.sleep(0.5)
        left.append("follower")
        muster.leave(of_two(other(store), rank=1))

    together(lambda: (muster.leave(of_two(store, rank=0)), left.append("leader")), follower)
    assert left[0] == "follower" and sorted(left[1:]) == ["destroyed", "destroyed", "leader"]


def test_the_leader_stays_no_longer_than_so(
    store: Any, left: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(muster, "PART_S", 0.3)
    muster.leave(of_two(store, rank=0))
    assert left == ["destroyed"] and "rank 1 has not left within 0.3 s" in caplog.text


def test_one_alone_just_goes(left: list[str]) -> None:
    muster.leave(Ranks())
    assert left == []


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has happened at the end."""
    happened: list[str] = []
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: happened.append("destroyed"))
    return happened


def of_two(store: Any, *, rank: int) -> Ranks:
    nothing: Any = None
    company = Company(nothing, nothing, store, Orders(store), Shares(store, rank=rank, count=2))
    return Ranks(rank, 2, company)


def test_orders_come_in_turn(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LISTEN_S", 0.2)
    monkeypatch.setattr(orders, "KEPT", 2)
    leader, follower = Orders(store), Orders(other(store))
    leader.give("begin", step=3)
    leader.give("weights", by_leader=True)
    assert [follower.take(), follower.take()] == [Order("begin", {"step": 3}), Order("weights", {"by_leader": True})]
    Thread(target=lambda: (time.sleep(0.5), leader.give("end"))).start()
    assert follower.take() == Order("end", {})
    assert [store.check([f"order/{number}"]) for number in range(3)] == [False, True, True]


def test_a_leader_with_nothing_to_do_says_so_now_and_then(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LISTEN_S", 0.1)
    monkeypatch.setattr(orders, "PATIENCE_S", 1.0)
    monkeypatch.setattr(orders, "REASSURE_S", 0.5)
    leader, follower = Orders(store), Orders(other(store))

    def idle() -> None:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            leader.reassure()
            time.sleep(0.05)
        leader.give("end")

    assert together(follower.take, idle) == [Order("end", {}), None]
    assert 3 <= store.num_keys() - 1 <= 5, "about one every half second"


def test_a_rank_waits_for_orders_so_long(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LISTEN_S", 0.1)
    monkeypatch.setattr(orders, "PATIENCE_S", 0.3)
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
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv"), RoleDied),
        (RuntimeError("[gloo/transport/tcp/pair.cc:81] writev [127.0.0.1]:1: Broken pipe"), RoleDied),
        (DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed.\nmore"), RoleDied),
        (DistBackendError("NCCL error: remote process exited or there was a network error"), RoleDied),
        (DistBackendError("NCCL communicator was aborted on rank 0."), RoleDied),
        (DistBackendError(DUPLICATE), DistBackendError),
        (DistBackendError("ncclSystemError: System call failed\nException raised from abort"), DistBackendError),
        (RuntimeError("[enforce fail at gloo/allreduce.cc:22] elements must be"), RuntimeError),
        (RuntimeError("shape mismatch; the connection was closed"), RuntimeError),
    ],
)
def test_only_what_another_rank_did_is_blamed_on_it(error: Exception, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught, blaming_others():
        raise error
    assert type(caught.value) is raised
    assert caught.value is error or "more" not in str(caught.value)


def test_a_rank_speaks_by_the_interface_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    ranks._speak_by("10.1.2.3")
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "no interface here has that address"
    ranks._speak_by("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    ranks._speak_by("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
