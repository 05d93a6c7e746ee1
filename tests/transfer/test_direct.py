"""Weights from a learner's memory to an engine's processes, by gloo between real processes."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from areal.broker.client import Client
from areal.broker.errors import BrokerError, Fenced
from areal.broker.keys import Keys
from areal.learner import sender as senders
from areal.transfer import channel
from areal.transfer.channel import Channel, Seat, backend_for, entries_of, meet
from areal.transfer.line import Ask, Hello, Line, Message, Welcome

from .ends import Engine, Learner, fingerprint, large, weights

ENDS = Path(__file__).with_name("ends.py")

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def learner(client: Client, run: str) -> Iterator[Learner]:
    made = Learner(client, run)
    yield made
    made.sender.close()


@pytest.fixture
def begin(redis_url: str, run: str) -> Iterator[Begin]:
    """Starts an end in a process of its own: begin("engine", until=1)."""
    begun: list[subprocess.Popen[str]] = []

    def start(end: str, **told: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.transfer.ends", end, json.dumps({"url": redis_url, "run": run} | told)]
        begun.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ENDS.parents[2])
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def taken(client: Client, run: str) -> tuple[int, dict[str, torch.Tensor]]:
    """The newest version, as an engine takes it that comes for it alone."""

    async def take() -> tuple[int, dict[str, torch.Tensor]]:
        engine = Engine(client, run)
        try:
            return await engine.newest()
        finally:
            engine.receiver.close()

    return asyncio.run(take())


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_version_arrives_bit_for_bit(learner: Learner, begin: Begin) -> None:
    engine = begin("engine", until=2)
    learner.publish(0, weights(0))
    assert line_of(engine) == f"0 {fingerprint(weights(0))}"
    learner.publish(2, weights(2))
    assert line_of(engine) == f"2 {fingerprint(weights(2))}"
    assert engine.wait(30) == 0


def test_every_process_of_an_engine_gets_all(learner: Learner, client: Client, run: str) -> None:
    learner.publish(1, large(1, count=2))

    async def take() -> None:
        engine = Engine(client, run, processes=2)
        published = engine.store.latest()
        assert published is not None
        received = await engine.take(published)
        assert [fingerprint(each) for each in received] == [fingerprint(large(1, count=2))] * 2
        engine.receiver.close()

    asyncio.run(take())


def test_nothing_at_all_takes_no_parcel(learner: Learner, client: Client, run: str) -> None:
    learner.publish(0, {})
    assert taken(client, run) == (0, {})


def test_only_the_newest_is_held_and_an_older_one_is_refused(learner: Learner, client: Client, run: str) -> None:
    for version in range(4):
        learner.publish(version, weights(version))
    assert list(learner.sender._held) == [f"00000003-{learner.epoch}"]

    async def take() -> None:
        engine = Engine(client, run)
        published = [each for _, each in engine.store._announced() if each is not None]
        assert [each.version for each in published] == [3, 2, 1]
        with pytest.raises(BrokerError, match=r"cannot be had from the learner at 127.0.0.1:.*it has newer ones"):
            await engine.take(published[1])
        version, tensors = await engine.newest()
        assert (version, fingerprint(tensors)) == (3, fingerprint(weights(3)))
        engine.receiver.close()

    asyncio.run(take())


def test_a_version_on_its_way_arrives_although_a_newer_one_has_come(learner: Learner, client: Client, run: str) -> None:
    learner.publish(0, large(0, count=3))

    def overtake() -> None:
        if list(learner.sender._held) == [f"00000000-{learner.epoch}"]:
            learner.publish(1, weights(1))

    async def take() -> None:
        engine = Engine(client, run)
        version, tensors = await engine.newest(came=overtake)
        assert (version, fingerprint(tensors)) == (0, fingerprint(large(0, count=3)))
        version, tensors = await engine.newest(0)
        assert (version, fingerprint(tensors)) == (1, fingerprint(weights(1)))
        engine.receiver.close()

    asyncio.run(take())


def test_what_is_not_what_was_announced_is_refused(learner: Learner, client: Client, run: str) -> None:
    learner.publish(0, weights(0))
    learner.sender._held[f"00000000-{learner.epoch}"] = weights(0) | {"one": torch.zeros(1)}
    with pytest.raises(BrokerError, match="others than were announced"):
        taken(client, run)


@pytest.mark.parametrize("end", ["die", "hang"])
def test_an_engine_that_stops_midway_loses_its_own_line_alone(
    learner: Learner, client: Client, run: str, begin: Begin, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PARCEL_TIMEOUT_S", 5.0)
    learner.publish(0, large(0))
    bad = begin("engine", until=0, then=end)
    assert line_of(bad) == "half"
    learner.publish(1, weights(1))  # which is not kept waiting

    async def take() -> None:
        engine = Engine(client, run)
        version, tensors = await engine.newest()
        assert (version, fingerprint(tensors)) == (1, fingerprint(weights(1)))
        await until(lambda: len(learner.sender._lines) == 1)
        learner.publish(2, weights(2))
        assert fingerprint((await engine.newest(1))[1]) == fingerprint(weights(2))
        engine.receiver.close()
        await until(lambda: not learner.sender._lines)

    asyncio.run(take())


def test_an_engine_that_hangs_up_and_hangs_does_not_stop_the_learner(
    learner: Learner, client: Client, run: str, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for as long as a parcel may take: this test would take an hour."""
    monkeypatch.setattr(channel, "PARCEL_TIMEOUT_S", 3600.0)
    learner.publish(0, large(0))
    bad = begin("engine", until=0, then="hang up")
    assert line_of(bad) == "half"
    learner.publish(1, weights(1))
    assert taken(client, run)[0] == 1


def test_a_learner_killed_midway_is_noticed_and_the_next_one_found(
    client: Client, run: str, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PARCEL_TIMEOUT_S", 5.0)  # gloo may not notice a death within a parcel
    first = begin("learner", version=0, dies_at=3)
    assert line_of(first) == "published"

    async def take() -> None:
        engine, came = Engine(client, run), []
        with pytest.raises(BrokerError, match=r"cannot travel|took more than"):
            await engine.newest(came=lambda: came.append(1))
        assert 1 <= len(came) <= 2
        with pytest.raises(BrokerError, match="gone"):
            engine.receiver.require_open()
        published = engine.store.latest()
        assert published is not None
        with pytest.raises(BrokerError, match=r"cannot be had from the learner at .*nobody answers"):
            await engine.take(published)
        second = Learner(client, run)
        with pytest.raises(BrokerError, match="cannot be had"):  # no other has told of itself yet
            await engine.take(published)
        second.publish(1, weights(1))
        with pytest.raises(BrokerError, match="gone with the learner that held them"):
            await engine.take(published)
        assert fingerprint((await engine.newest(0))[1]) == fingerprint(weights(1))
        engine.receiver.close()
        second.sender.close()

    asyncio.run(take())


ENDING = """
import json, socket, sys, threading
from areal.broker.lifetime import STUCK
from areal.learner.sender import Sender
from areal.transfer.channel import Channel, Seat, meet
from areal.transfer.line import Hello, Line, Welcome
sender = Sender("127.0.0.1")
depot = sender.depot(1)
line = Line(socket.create_connection((depot.host, depot.port)))
line.say(Hello(token=depot.token, devices=[""]), timeout_s=9)
welcome = line.hear(Welcome, timeout_s=9)
engine = Channel(meet(depot.host, welcome.port, welcome.prefix), Seat(1, 2, "gloo", "127.0.0.1"))
sender.close()
engine.close()
print([thread.name for thread in threading.enumerate() if thread.name == STUCK])
"""


def test_a_learner_ends_well_though_an_engine_is_there() -> None:
    ending = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False, timeout=60)
    assert (ending.returncode, ending.stdout) == (0, "[]\n"), ending.stderr


def test_a_learner_whose_epoch_is_over_tells_of_itself_no_more(learner: Learner, client: Client, run: str) -> None:
    second = Learner(client, run)
    second.publish(0, weights(0))
    told = client.get(Keys(run).depot)
    with pytest.raises(Fenced):
        learner.publish(1, weights(1))
    assert client.get(Keys(run).depot) == told
    second.sender.close()


def test_what_redis_forgot_is_told_again(learner: Learner, client: Client, run: str) -> None:
    learner.publish(0, weights(0))
    client.delete(Keys(run).depot, Keys(run).weights)
    learner.publisher.ensure()
    learner.publisher.wait()
    assert fingerprint(taken(client, run)[1]) == fingerprint(weights(0))


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"epoch": 1, "host": "h", "port": 0, "token": "x"}', b"\xff" * 9])
def test_an_odd_depot_is_none(learner: Learner, client: Client, run: str, said: bytes) -> None:
    learner.publish(0, weights(0))
    client.set(Keys(run).depot, said)
    with pytest.raises(BrokerError, match="gone with the learner"):
        taken(client, run)


def dialled(learner: Learner) -> Line:
    depot = learner.sender.depot(learner.epoch)
    return Line(socket.create_connection((depot.host, depot.port), timeout=10))


@pytest.mark.parametrize(
    "first", [Hello(token="x" * 22, devices=[""]), Hello(token="ü", devices=[""]), Ask(name="00000000-1")]
)
def test_who_does_not_know_the_token_is_dropped_at_once(learner: Learner, first: Message) -> None:
    learner.publish(0, weights(0))
    line = dialled(learner)
    line.say(first, timeout_s=5)
    with pytest.raises(BrokerError, match=r"gone|broken"):
        line.hear(Welcome, timeout_s=5)
    line.close()


def test_a_silent_stranger_is_dropped(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "HELLO_S", 0.2)
    line = dialled(learner)
    with pytest.raises(BrokerError, match="gone"):
        line.hear(Welcome, timeout_s=10)
    line.close()


def test_more_than_there_is_room_for_are_turned_away(learner: Learner, client: Client, run: str) -> None:
    learner.publish(0, weights(0))
    learner.sender._room = threading.BoundedSemaphore(1)
    stranger = dialled(learner)
    with pytest.raises(BrokerError, match=r"gone|broken"):
        taken(client, run)
    stranger.close()
    asyncio.run(until(lambda: not learner.sender._lines))
    assert taken(client, run)[0] == 0


def test_nccl_is_taken_only_between_gpus_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(channel, "gpu", lambda: "a")
    assert backend_for(["b", "c"]) == "nccl"
    assert [backend_for(devices) for devices in (["a"], ["b", "b"], ["b", ""])] == ["gloo"] * 3
    monkeypatch.setattr(channel, "gpu", lambda: "")
    assert backend_for(["b"]) == "gloo"


@pytest.mark.gpu
def test_a_version_arrives_by_nccl(tmp_path: Path) -> None:
    """Two processes on two GPUs: NCCL takes no two on one."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"there are {torch.cuda.device_count()} CUDA devices here, and two are wanted")
    torch.multiprocessing.spawn(_by_nccl, (free_port(),), nprocs=2)


def _by_nccl(rank: int, port: int) -> None:
    torch.cuda.set_device(rank)
    store = meet_or_host(port, rank)
    by_nccl = Channel(store, Seat(rank, 2, "nccl", "127.0.0.1"))
    for tensors in (weights(3), large(3, count=3)):
        entries = entries_of(tensors)
        if rank == 0:
            by_nccl.send(tensors, entries)
        else:
            received = {name: tensor.cpu() for name, tensor in by_nccl.receive(entries)}
            assert fingerprint(received) == fingerprint(tensors)
    by_nccl.close()


def meet_or_host(port: int, rank: int) -> Any:
    from torch.distributed import PrefixStore, TCPStore

    if rank:
        time.sleep(1)
        return meet("127.0.0.1", port, "test")
    return PrefixStore("test", TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
