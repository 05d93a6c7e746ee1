"""Versions, announcements, retention and fencing, over each transport; what one transport does is in its own tests."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.broker import weights
from areal.broker.bulletin import Bulletin
from areal.broker.chunks import RedisChunks
from areal.broker.client import Client, connect
from areal.broker.config import BrokerConfig
from areal.broker.errors import BrokerError, Fenced
from areal.broker.keys import Keys
from areal.broker.server import EmbeddedRedis
from areal.broker.transport import SharedDirectory, Transport
from areal.broker.weights import Published, WeightStore, open_store

LONG_S = 8.0

ODD = [
    {"version": 7, "name": name, "digest": 0}
    for name in (
        "../elsewhere",
        "/etc",
        "00000001",
        "1-1",
        "00000001-1/..",
        "00000001-1\n",
        "",
        "٠٠٠٠٠٠٠١-١",
        b"\xff\x00",
    )
] + [
    {"version": 7, "name": "00000007-1", "digest": "none"},
    {"version": 7, "name": "00000007-1"},
    {"version": 7, "digest": 3},
]
WITHOUT_VERSION: list[Any] = [
    {"version": "seven", "name": "00000007-1", "digest": 0},
    {"version": "-7", "name": "00000007-1", "digest": 0},
    {"version": "7e3", "name": "00000007-1", "digest": 0},
    {"version": "9" * 400, "name": "00000007-1", "digest": 0},
    {"name": "00000007-1", "digest": 0},
    {"nothing": "at all"},
]


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "adapter_config.json").write_text("{}")

    return write


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    return Bulletin(client, run).lead()


@pytest.fixture(params=["directory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


MakeTransport = Callable[[], Transport]


@pytest.fixture
def transport(kind: str, client: Client, run: str, tmp_path: Path) -> MakeTransport:
    """Makes the transport of one more process."""
    if kind == "redis":
        return lambda: RedisChunks(client, run)
    return lambda: SharedDirectory(tmp_path / "weights")


@pytest.fixture
def store(client: Client, run: str, transport: MakeTransport) -> WeightStore:
    return WeightStore(client, run, transport(), kept=2)


@pytest.fixture
def reader(client: Client, run: str, transport: MakeTransport) -> WeightStore:
    return WeightStore(client, run, transport(), kept=2)


@pytest.fixture
def there(kind: str, client: Client, run: str, tmp_path: Path) -> Callable[[], list[str]]:
    """What is there, half of it or whole, announced or not."""

    def look() -> list[str]:
        if kind == "directory":
            return sorted(path.name for path in (tmp_path / "weights").glob("*"))
        prefix = Keys(run).weights_of("")
        stored = sorted(key.decode().removeprefix(prefix) for key in client.keys(f"areal:{{{run}}}:weights:of:*"))
        assert {name.encode() for name in stored} == client.smembers(Keys(run).weights_stored)
        return stored

    return look


def test_the_newest_version_is_found_and_whole(store: WeightStore, reader: WeightStore, epoch: int) -> None:
    assert reader.latest() is None
    published = store.publish(0, writing("zero"), epoch=epoch)
    assert reader.latest() == published == Published(0, f"00000000-{epoch}", published.digest)
    folder = reader.fetch(published)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "model.safetensors": "zero",
        "adapter_config.json": "{}",
    }


def test_versions_only_rise(
    store: WeightStore, reader: WeightStore, epoch: int, there: Callable[[], list[str]]
) -> None:
    store.publish(4, writing("four"), epoch=epoch)
    with pytest.raises(BrokerError, match="version 3 cannot be published: VERSION 4 is not below it"):
        store.publish(3, writing("three"), epoch=epoch)
    latest = reader.latest()
    assert latest is not None and latest.version == 4
    assert (reader.fetch(latest) / "model.safetensors").read_text() == "four"
    assert there() == [latest.name]


def test_versions_rise_even_if_another_was_announced_meanwhile(
    client: Client, store: WeightStore, epoch: int, there: Callable[[], list[str]]
) -> None:
    def overtaken(folder: Path) -> None:
        writing("three")(folder)
        client.xadd(store._stream, {"version": 4, "name": f"00000004-{epoch}", "digest": 0})

    with pytest.raises(BrokerError, match="version 3 cannot be published: VERSION 4 is not below it"):
        store.publish(3, overtaken, epoch=epoch)
    assert there() == []


def test_a_version_cannot_be_replaced(store: WeightStore, reader: WeightStore, epoch: int) -> None:
    versions = [store.publish(version, writing(str(version)), epoch=epoch) for version in (4, 5)]
    for version in (4, 5):
        with pytest.raises(BrokerError, match="it has been already"):
            store.publish(version, writing("another"), epoch=epoch)
    for published in versions:
        assert (reader.fetch(published) / "model.safetensors").read_text() == str(published.version)


def test_an_announcement_repeated_after_a_lost_reply_is_no_error(
    client: Client, store: WeightStore, epoch: int
) -> None:
    published = store.publish(4, writing("four"), epoch=epoch)
    assert store.restore(published, epoch=epoch) == published
    assert client.xlen(store._stream) == 1


def test_an_earlier_learner_cannot_publish(
    client: Client, run: str, store: WeightStore, epoch: int, there: Callable[[], list[str]]
) -> None:
    later = Bulletin(client, run).lead()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        store.publish(0, writing("zero"), epoch=epoch)
    assert store.latest() is None
    assert there() == []
    newest = store.publish(4, writing("four"), epoch=later)
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        store.publish(4, writing("another four"), epoch=epoch)
    assert store.latest() == newest
    assert there() == [newest.name]


def test_a_learner_whose_work_a_later_one_swept_away_is_told_so(client: Client, run: str, store: WeightStore) -> None:
    epoch = Bulletin(client, run).lead()

    def swept(folder: Path) -> None:
        Bulletin(client, run).lead()
        raise OSError("no such file")

    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        store.publish(0, swept, epoch=epoch)


def test_the_oldest_versions_are_deleted(store: WeightStore, epoch: int, there: Callable[[], list[str]]) -> None:
    for version in range(5):
        store.publish(version, writing(str(version)), epoch=epoch)
    assert there() == [f"00000003-{epoch}", f"00000004-{epoch}"]


def test_what_is_deleted_is_passed_over(store: WeightStore, reader: WeightStore, epoch: int) -> None:
    first = store.publish(0, writing("zero"), epoch=epoch)
    for version in range(1, 3):
        store.publish(version, writing(str(version)), epoch=epoch)
    with pytest.raises(BrokerError, match=r"no weights at|not there"):
        reader.fetch(first)


def test_a_version_half_written_is_never_announced(
    store: WeightStore, reader: WeightStore, epoch: int, there: Callable[[], list[str]]
) -> None:
    def fails(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        store.publish(0, fails, epoch=epoch)
    assert store.latest() is None
    assert there() == []
    published = store.publish(0, writing("whole"), epoch=epoch)
    assert there() == [f"00000000-{epoch}"]
    assert (reader.fetch(published) / "model.safetensors").read_text() == "whole"


def test_only_weights_are_published(store: WeightStore, epoch: int, there: Callable[[], list[str]]) -> None:
    with pytest.raises(BrokerError, match=r"holds 'pytorch_model\.bin', which is no weights"):
        store.publish(0, lambda folder: (folder / "pytorch_model.bin").touch(), epoch=epoch)
    with pytest.raises(BrokerError, match="is empty"):
        store.publish(0, lambda folder: None, epoch=epoch)
    assert there() == []


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_odd_announcement_is_passed_over(
    client: Client,
    store: WeightStore,
    reader: WeightStore,
    epoch: int,
    odd: dict[Any, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = store.publish(3, writing("three"), epoch=epoch)
    client.xadd(store._stream, odd)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert reader.wait(-1, timeout_s=0.01) == good
            assert reader.wait(3, timeout_s=0.01) is None
    assert [record.message for record in caplog.records if "odd way" in record.message] == caplog.messages
    assert len(caplog.messages) == 1
    latest = store.latest()
    assert latest is not None and latest.version == 7  # so that a learner begins above it
    with pytest.raises(BrokerError, match="odd way"):
        reader.fetch(latest)
    with pytest.raises(BrokerError, match="version 7 cannot be published"):
        store.publish(7, writing("seven"), epoch=epoch)
    newest = store.publish(8, writing("eight"), epoch=epoch)
    assert reader.wait(3, timeout_s=0.01) == newest
    reader.fetch(newest)


@pytest.mark.parametrize("odd", WITHOUT_VERSION, ids=lambda odd: str(odd)[:40])
def test_an_announcement_without_a_version_is_passed_over(
    client: Client, store: WeightStore, reader: WeightStore, epoch: int, odd: dict[Any, Any]
) -> None:
    client.xadd(store._stream, odd)
    assert store.latest() is None
    assert reader.wait(-1, timeout_s=0.01) is None
    good = store.publish(0, writing("zero"), epoch=epoch)
    client.xadd(store._stream, odd)
    assert store.latest() == reader.wait(-1, timeout_s=0.01) == good
    assert store.publish(1, writing("one"), epoch=epoch) == reader.wait(0, timeout_s=0.01)


def test_an_odd_announcement_does_not_wake_who_waits_for_ever_again(
    client: Client, reader: WeightStore, epoch: int
) -> None:
    """The wait goes on from behind it, instead of returning at once."""
    client.xadd(reader._stream, {"version": 7, "name": "../7", "digest": 0})
    began = time.monotonic()
    assert reader.wait(-1, timeout_s=0.3) is None
    assert time.monotonic() - began >= 0.25


def test_an_announcement_says_nothing_of_where_the_learner_keeps_its_weights(
    client: Client, store: WeightStore, epoch: int, tmp_path: Path
) -> None:
    store.publish(3, writing("three"), epoch=epoch)
    ((_, fields),) = client.xrange(store._stream)
    assert str(tmp_path).encode() not in b"".join(fields.values())


def test_a_later_learner_cleans_up_after_one_that_died_half_way(
    client: Client, run: str, store: WeightStore, transport: MakeTransport, epoch: int, there: Callable[[], list[str]]
) -> None:
    store.publish(0, writing("zero"), epoch=epoch)
    dead = transport()
    dead.put(f"00000001-{epoch}", writing("one"))  # whole, but never announced
    later = Bulletin(client, run).lead()
    assert there() == [f"00000000-{epoch}", f"00000001-{epoch}"]
    store.publish(2, writing("two"), epoch=later)
    assert there() == [f"00000000-{epoch}", f"00000002-{later}"]


def test_room_is_made_before_it_is_taken(
    client: Client, run: str, store: WeightStore, transport: MakeTransport, epoch: int, there: Callable[[], list[str]]
) -> None:
    transport().put(f"00000001-{epoch}", writing("one"))
    seen: list[list[str]] = []

    def write(folder: Path) -> None:
        seen.append(there())
        writing("two")(folder)

    store.publish(2, write, epoch=Bulletin(client, run).lead())
    assert [[name for name in names if not name.startswith(".")] for names in seen] == [[]]


def test_an_earlier_learner_deletes_nothing_of_a_later_one(
    client: Client, run: str, store: WeightStore, transport: MakeTransport, epoch: int, there: Callable[[], list[str]]
) -> None:
    later = Bulletin(client, run).lead()
    transport().put(f"00000001-{later}", writing("one"))  # its announcement is to come
    with pytest.raises(Fenced):
        store.publish(0, writing("zero"), epoch=epoch)
    assert there() == [f"00000001-{later}"]


def test_waiting_for_a_version(store: WeightStore, reader: WeightStore, epoch: int) -> None:
    assert reader.wait(-1, timeout_s=0.02) is None
    published = store.publish(7, writing("seven"), epoch=epoch)
    assert reader.wait(-1, timeout_s=5) == published
    assert reader.wait(6, timeout_s=5) == published
    assert reader.wait(7, timeout_s=0.02) is None


def test_a_version_published_between_two_looks_wakes_who_waits(
    client: Client, run: str, store: WeightStore, transport: MakeTransport, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is announced just after a look that did not find it, and before the wait for a new one begins."""
    monkeypatch.setattr(weights, "LONGEST_BLOCK_S", LONG_S)
    store.publish(1, writing("one"), epoch=epoch)

    class Overtaken(WeightStore):
        def _newest(self) -> Any:
            found = super()._newest()
            if found[1] is not None and found[1].version == 1:
                thread = threading.Thread(target=store.publish, args=(2, writing("two")), kwargs={"epoch": epoch})
                thread.start()
                thread.join()
            return found

    began = time.monotonic()
    found = Overtaken(client, run, transport()).wait(1, timeout_s=LONG_S)
    assert found is not None and found.version == 2
    assert time.monotonic() - began < LONG_S / 2


def test_a_version_published_under_a_wait_ends_it(
    store: WeightStore, reader: WeightStore, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LONGEST_BLOCK_S", LONG_S)
    timer = threading.Timer(0.1, store.publish, (0, writing("zero")), {"epoch": epoch})
    timer.start()
    began = time.monotonic()
    found = reader.wait(-1, timeout_s=LONG_S)
    assert found is not None and found.version == 0
    assert time.monotonic() - began < LONG_S / 2
    timer.join()


def test_a_reader_beside_fast_publishing_gets_whole_versions_and_ends_on_the_newest(
    store: WeightStore, reader: WeightStore, epoch: int
) -> None:
    last = 60
    loaded: list[int] = []
    torn: list[str] = []

    def read() -> None:
        deadline = time.monotonic() + 20
        while (not loaded or loaded[-1] < last) and time.monotonic() < deadline:
            published = reader.wait(loaded[-1] if loaded else -1, timeout_s=1)
            if published is None:
                continue
            try:
                folder = reader.fetch(published)
                text = (folder / "model.safetensors").read_text()
            except BrokerError:
                continue
            except OSError as error:
                torn.append(str(error))
                return
            if text != f"{published.version} " * 50_000:
                torn.append(f"{published.version} is {text[:20]!r}")
            loaded.append(published.version)

    thread = threading.Thread(target=read)
    thread.start()
    for version in range(last + 1):
        store.publish(version, writing(f"{version} " * 50_000), epoch=epoch)
    thread.join()
    assert torn == []
    assert loaded[-1] == last
    assert loaded == sorted(set(loaded))


def test_a_redis_that_lost_its_last_second_is_told_again(tmp_path: Path, kind: str) -> None:
    """The append-only file is cut back to what it was before the last version, as a kill of the machine may do."""
    server = EmbeddedRedis(tmp_path / "redis")
    try:
        client = connect(server.start(), timeout_s=10)
        config = BrokerConfig(weights=kind, weights_kept=2)
        store = open_store(client, "run", config, tmp_path / "weights")
        reader = open_store(client, "run", config, tmp_path / "weights")
        epoch = Bulletin(client, "run").lead()
        for version in range(3):
            store.publish(version, writing(str(version)), epoch=epoch)
        server.stop()
        kept = {file: file.read_bytes() for file in (tmp_path / "redis").rglob("*.aof*")}
        assert kept
        server.start()
        for version in range(3, 7):
            last = store.publish(version, writing(str(version)), epoch=epoch)
        assert not store.is_lost(last)
        server.stop()
        for file, content in kept.items():
            file.write_bytes(content)
        server.start()

        assert store.is_lost(last)
        back = reader.wait(-1, timeout_s=1)
        assert back is not None and back.version == 2
        assert store.restore(last, epoch=epoch) == last
        assert not store.is_lost(last)
        assert reader.wait(2, timeout_s=1) == last
        assert (reader.fetch(last) / "model.safetensors").read_text() == "6"
        store.publish(7, writing("7"), epoch=epoch)
        reader.fetch(store.publish(8, writing("8"), epoch=epoch))
        store.publish(9, writing("9"), epoch=epoch)
        if kind == "redis":
            assert len(client.keys("areal:{run}:weights:of:*")) == 2
        else:
            assert len(list((tmp_path / "weights").iterdir())) == 2
        client.close()
    finally:
        server.stop()


def test_what_is_lost_on_both_sides_is_an_error(store: WeightStore, epoch: int) -> None:
    published = store.publish(0, writing("zero"), epoch=epoch)
    with pytest.raises(BrokerError, match="no weights at"):
        store.restore(Published(1, f"00000001-{epoch}", published.digest), epoch=epoch)


def test_a_learner_that_was_replaced_restores_nothing(client: Client, run: str, store: WeightStore, epoch: int) -> None:
    published = store.publish(0, writing("zero"), epoch=epoch)
    client.delete(store._stream)
    Bulletin(client, run).lead()
    with pytest.raises(Fenced):
        store.restore(published, epoch=epoch)
    assert store.latest() is None
