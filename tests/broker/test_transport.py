"""The shared directory, and what a folder of weights may hold."""

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from areal.broker.errors import BrokerError
from areal.broker.folder import checksum, verify, weight_files
from areal.broker.transport import SharedDirectory

NAME = "00000001-1"


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_text("one")


@pytest.fixture
def shared(tmp_path: Path) -> SharedDirectory:
    return SharedDirectory(tmp_path / "weights")


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "weights").iterdir())


def test_damage_is_noticed(shared: SharedDirectory) -> None:
    digest = shared.put(NAME, write)
    folder = shared.fetch(NAME, digest)
    (folder / "model.safetensors").write_text("0ne")
    with pytest.raises(BrokerError, match="damaged"):
        shared.fetch(NAME, digest)
    with pytest.raises(BrokerError, match="damaged"):
        shared.restore(NAME, digest)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BrokerError, match="is empty"):
        shared.fetch(NAME, digest)
    with pytest.raises(BrokerError, match="no weights at"):
        shared.fetch("00000002-1", digest)


def with_a_folder(path: Path) -> None:
    (path / "model.safetensors.d").mkdir()


def with_a_pickle(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04")


def with_a_link(path: Path) -> None:
    (path / "other.safetensors").symlink_to("/etc/hostname")


def with_a_linked_folder(path: Path) -> None:
    (path / "folder.safetensors").symlink_to(path)


@pytest.mark.parametrize("add", [with_a_folder, with_a_pickle, with_a_link, with_a_linked_folder])
def test_a_folder_with_anything_but_weights_is_refused(shared: SharedDirectory, add: Callable[[Path], None]) -> None:
    digest = shared.put(NAME, write)
    folder = shared.fetch(NAME, digest)
    add(folder)
    for look in (lambda: shared.fetch(NAME, digest), lambda: weight_files(folder), lambda: verify(folder, digest)):
        with pytest.raises(BrokerError, match="which is no weights"):
            look()


def test_writers_on_different_hosts_do_not_meet(tmp_path: Path) -> None:
    """Both write the same version, one of them for an epoch that is over: each has a folder of its own aside."""
    made = [SharedDirectory(tmp_path / "weights") for _ in range(2)]
    aside: list[Path] = []

    def slow(folder: Path) -> None:
        aside.append(folder)
        while len(aside) < 2:
            pass
        write(folder)

    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(lambda writer: writer.put(NAME, slow), made))
    assert len(set(aside)) == 2
    assert digests[0] == digests[1] == checksum(tmp_path / "weights" / NAME)
    assert names(tmp_path) == [NAME]


def test_what_dead_learners_left_aside_is_deleted(shared: SharedDirectory, tmp_path: Path) -> None:
    shared.put("00000001-2", write)
    left = [f".0000000{version}-{epoch}.{'a' * 32}.partial" for version, epoch in ((1, 1), (2, 2), (3, 3))]
    other = ["notes-from-me", ".hidden", "1-1"]
    for name in left + other:
        (tmp_path / "weights" / name).mkdir()
    shared.forget({"00000001-2"}, epoch=2)
    assert names(tmp_path) == sorted(["00000001-2", left[2], *other])


def test_a_folder_that_somebody_loads_is_not_deleted_under_him(shared: SharedDirectory, tmp_path: Path) -> None:
    reader = SharedDirectory(tmp_path / "weights")
    digests = {name: shared.put(name, write) for name in ("00000001-1", "00000002-1")}
    folder = reader.fetch("00000001-1", digests["00000001-1"])
    shared.forget({"00000002-1"}, epoch=1)
    verify(folder, digests["00000001-1"])
    reader.fetch("00000002-1", digests["00000002-1"])
    shared.forget({"00000002-1"}, epoch=1)
    assert names(tmp_path) == ["00000002-1"]


def fetch_and_die(directory: Path, digest: int) -> None:
    reader = SharedDirectory(directory)
    reader.fetch(NAME, digest)
    multiprocessing.current_process().kill()


def test_who_died_holds_nothing(shared: SharedDirectory, tmp_path: Path) -> None:
    digest = shared.put(NAME, write)
    reader = multiprocessing.get_context("spawn").Process(target=fetch_and_die, args=(tmp_path / "weights", digest))
    reader.start()
    reader.join(30)
    assert reader.exitcode is not None
    shared.forget(set(), epoch=1)
    assert names(tmp_path) == []


def test_no_directory_is_nothing_to_forget(shared: SharedDirectory, tmp_path: Path) -> None:
    shared.forget(set(), epoch=1)
    shared.put(NAME, write)
    shutil.rmtree(tmp_path / "weights" / NAME)
    shared.forget(set(), epoch=1)
    assert names(tmp_path) == []
