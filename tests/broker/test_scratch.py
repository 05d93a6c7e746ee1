import fcntl
import gc
import os
import tempfile
from pathlib import Path

import pytest

from areal.broker.scratch import LOCK, PREFIX, YOUNG_S, Scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def aged(folder: Path) -> Path:
    old = folder.stat().st_mtime - 2 * YOUNG_S
    os.utime(folder, (old, old))
    return folder


def left_behind(temporary: Path, name: str) -> Path:
    folder = temporary / f"{PREFIX}{name}"
    (folder / "00000001-1").mkdir(parents=True)
    (folder / LOCK).touch()
    return folder


def test_it_goes_with_its_owner() -> None:
    closed, collected = Scratch(), Scratch()
    paths = [closed.path, collected.path]
    (paths[0] / "file").touch()
    closed.close()
    del collected
    gc.collect()
    assert [path.exists() for path in paths] == [False, False]


def test_what_the_dead_left_is_deleted_and_nothing_else(temporary: Path) -> None:
    abandoned = aged(left_behind(temporary, "abandoned"))
    young = left_behind(temporary, "young")
    others = aged(left_behind(temporary, "x").rename(temporary / "others"))
    (temporary / f"{PREFIX}link").symlink_to(others)
    living = Scratch()
    aged(living.path)
    new = Scratch()
    assert not abandoned.exists()
    assert all(path.exists() for path in (young, others, living.path, new.path, others / "00000001-1"))


def test_a_lock_that_a_process_holds_keeps_its_folder(temporary: Path) -> None:
    folder = left_behind(temporary, "held")
    with (folder / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aged(folder)
        Scratch().close()
        assert folder.exists()
    Scratch().close()
    assert not folder.exists()


def test_a_fork_deletes_nothing() -> None:
    scratch = Scratch()
    child = os.fork()
    if child == 0:
        scratch.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert scratch.path.exists()
    scratch.close()
