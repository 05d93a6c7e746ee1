import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.broker import weights
from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.errors import BrokerError, Fenced
from areal.broker.weights import Published, WeightStore, verify

LONG_S = 8.0


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "adapter_config.json").write_text("{}")

    return write


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    return Bulletin(client, run).lead()


@pytest.fixture
def store(client: Client, run: str, tmp_path: Path) -> WeightStore:
    return WeightStore(client, run, tmp_path / "weights", kept=2)


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "weights").iterdir())


def test_the_newest_version_is_found_and_whole(store: WeightStore, epoch: int) -> None:
    assert store.latest() is None
    published = store.publish(0, writing("zero"), epoch=epoch)
    assert store.latest() == published
    verify(published)
    assert (published.path / "model.safetensors").read_text() == "zero"


def test_versions_only_rise(store: WeightStore, epoch: int, tmp_path: Path) -> None:
    store.publish(4, writing("four"), epoch=epoch)
    with pytest.raises(BrokerError, match="version 3 cannot be published"):
        store.publish(3, writing("three"), epoch=epoch)
    latest = store.latest()
    assert latest is not None and latest.version == 4
    verify(latest)
    assert folders(tmp_path) == [latest.path.name]


def test_a_version_cannot_be_replaced(store: WeightStore, epoch: int) -> None:
    first = store.publish(4, writing("four"), epoch=epoch)
    with pytest.raises(BrokerError):
        store.publish(4, writing("another four"), epoch=epoch)
    verify(first)


def test_an_announcement_repeated_after_a_lost_reply_is_no_error(
    client: Client, store: WeightStore, run: str, epoch: int
) -> None:
    published = store.publish(4, writing("four"), epoch=epoch)
    arguments = [epoch, 4, published.path.name, published.digest, 2]
    assert store._publish(keys=[store._epoch_key, store._stream], args=arguments) == 1
    assert client.xlen(store._stream) == 1


def test_an_earlier_learner_cannot_publish(client: Client, run: str, store: WeightStore, epoch: int) -> None:
    Bulletin(client, run).lead()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        store.publish(0, writing("zero"), epoch=epoch)
    assert store.latest() is None


def test_damage_is_noticed(store: WeightStore, epoch: int) -> None:
    published = store.publish(0, writing("zero"), epoch=epoch)
    (published.path / "model.safetensors").write_text("zer0")
    with pytest.raises(BrokerError, match="damaged"):
        verify(published)
    (published.path / "model.safetensors").unlink()
    with pytest.raises(BrokerError, match="damaged"):
        verify(published)
    with pytest.raises(BrokerError, match="is not at"):
        verify(Published(0, published.path / "elsewhere", 0))


def with_a_folder(path: Path) -> None:
    (path / "model.safetensors.d").mkdir()


def with_a_pickle(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04")


def with_a_link(path: Path) -> None:
    (path / "other.safetensors").symlink_to("/etc/hostname")


def with_a_linked_folder(path: Path) -> None:
    (path / "folder.safetensors").symlink_to(path)


@pytest.mark.parametrize("add", [with_a_folder, with_a_pickle, with_a_link, with_a_linked_folder])
def test_a_folder_with_anything_but_weights_is_refused(
    store: WeightStore, epoch: int, add: Callable[[Path], None]
) -> None:
    published = store.publish(0, writing("zero"), epoch=epoch)
    add(published.path)
    with pytest.raises(BrokerError, match="which is no weights"):
        verify(published)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "00000001", "1-1", "00000001-1/..", "00000001-1\n", ""])
def test_weights_announced_under_an_odd_name_are_refused(
    client: Client, store: WeightStore, epoch: int, name: str
) -> None:
    client.xadd(store._stream, {"version": 1, "name": name, "digest": 0})
    for look in (store.latest, lambda: store.wait(-1, timeout_s=0.01)):
        with pytest.raises(BrokerError, match="odd name"):
            look()


def test_an_announcement_says_nothing_of_where_the_learner_keeps_its_weights(
    client: Client, run: str, store: WeightStore, epoch: int, tmp_path: Path
) -> None:
    store.publish(3, writing("three"), epoch=epoch)
    latest = WeightStore(client, run, tmp_path / "mounted elsewhere").latest()
    assert latest is not None and latest.path == tmp_path / "mounted elsewhere" / f"00000003-{epoch}"
    ((_, fields),) = client.xrange(store._stream)
    assert str(tmp_path).encode() not in b"".join(fields.values())


def test_the_oldest_versions_are_deleted(store: WeightStore, epoch: int, tmp_path: Path) -> None:
    for version in range(5):
        store.publish(version, writing(str(version)), epoch=epoch)
    assert folders(tmp_path) == [f"00000003-{epoch}", f"00000004-{epoch}"]


def test_a_version_half_written_is_never_announced(store: WeightStore, epoch: int, tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        store.publish(0, fails, epoch=epoch)
    assert store.latest() is None
    assert folders(tmp_path) == [f".00000000.{os.getpid()}.partial"]
    store.publish(0, writing("whole"), epoch=epoch)
    assert folders(tmp_path) == [f"00000000-{epoch}"]


def test_waiting_for_a_version(store: WeightStore, epoch: int) -> None:
    assert store.wait(-1, timeout_s=0.02) is None
    published = store.publish(7, writing("seven"), epoch=epoch)
    assert store.wait(-1, timeout_s=5) == published
    assert store.wait(6, timeout_s=5) == published
    assert store.wait(7, timeout_s=0.02) is None


def test_a_version_published_between_two_looks_wakes_who_waits(
    client: Client, run: str, store: WeightStore, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    found = Overtaken(client, run, tmp_path / "weights").wait(1, timeout_s=LONG_S)
    assert found is not None and found.version == 2
    assert time.monotonic() - began < LONG_S / 2


def test_a_version_published_under_a_wait_ends_it(
    store: WeightStore, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LONGEST_BLOCK_S", LONG_S)
    timer = threading.Timer(0.1, store.publish, (0, writing("zero")), {"epoch": epoch})
    timer.start()
    began = time.monotonic()
    found = store.wait(-1, timeout_s=LONG_S)
    assert found is not None and found.version == 0
    assert time.monotonic() - began < LONG_S / 2
    timer.join()
