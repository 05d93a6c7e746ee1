"""Weights that are kept for good, and those of checkpoints, as they are found again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from areal.broker.errors import Fenced, ModelError
from areal.learner import archive
from areal.learner.archive import open_weights
from areal.learner.checkpoint import CheckpointStore

from .test_checkpoint import names, save, snapshot


def value_of(checkpoints: Path, step: int | None = None) -> float:
    return float(open_weights(checkpoints, step).read("a.weight")[0, 0])


def keep(store: CheckpointStore, step: int, value: float = 1.0, epoch: int = 6) -> None:
    made = snapshot(step, value, epoch)
    store.archive(made.state, made.weights, permit=lambda: None)
    store.wait()


def test_archived_weights_stay_when_their_checkpoint_goes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, archive_every=10)
    assert [step for step in range(25) if store.archives(step)] == [10, 20]
    save(store, 5, 10, 15)
    assert names(tmp_path) == ["archive", "step-00000015"] and names(tmp_path / "archive") == ["step-00000010"]
    kept = tmp_path / "archive" / "step-00000010"
    assert names(kept) == ["digests.json", "state.json", "weights"] and names(kept / "weights") == ["00001.safetensors"]
    assert json.loads((kept / "state.json").read_text()).items() >= {"step": 10, "version": 13, "epoch": 6}.items()
    assert open_weights(tmp_path).step == 15
    found = open_weights(tmp_path, 10)
    wanted = snapshot(10).weights
    assert found.step == 10 and sorted(found.names()) == sorted(wanted)
    assert all(torch.equal(found.read(name), wanted[name]) for name in wanted)
    latest = store.load_latest()
    assert latest is not None and latest.state.step == 15


def test_nothing_is_archived_by_default(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5, 10)
    assert not store.archives(10) and names(tmp_path) == ["step-00000005", "step-00000010"]


def test_a_step_is_archived_without_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, archive_every=3)
    keep(store, 3, value=3.0)
    assert store.load_latest() is None and value_of(tmp_path) == 3.0
    written = (tmp_path / "archive" / "step-00000003").stat().st_ino
    keep(store, 3, value=3.0)
    assert (tmp_path / "archive" / "step-00000003").stat().st_ino == written


def test_a_step_that_is_taken_again_takes_the_place_of_its_archived_weights(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, archive_every=3)
    keep(store, 3, value=3.0)
    keep(store, 3, value=7.0, epoch=9)
    assert value_of(tmp_path, 3) == 7.0 and names(tmp_path / "archive") == ["step-00000003"]
    save(store, 5)
    assert names(tmp_path) == ["archive", "step-00000005"]


def test_a_learner_that_leads_no_more_archives_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, archive_every=3)

    def refuse() -> None:
        raise Fenced("epoch 6 is over")

    made = snapshot(3)
    store.archive(made.state, made.weights, permit=refuse)
    with pytest.raises(Fenced):
        store.wait()
    assert not (tmp_path / "archive").exists()


def test_the_newest_are_those_of_a_checkpoint(tmp_path: Path) -> None:
    """What is archived beyond it may be of a lineage that is lost."""
    store = CheckpointStore(tmp_path, keep=2, archive_every=5)
    save(store, 4)
    keep(store, 35, value=3.0)
    assert open_weights(tmp_path).step == 4 and value_of(tmp_path, 35) == 3.0


def test_open_weights_outlive_their_files(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path, keep=1), 5)
    weights = open_weights(tmp_path, 5)
    shutil.rmtree(tmp_path / "step-00000005")
    assert weights.read("a.weight").tolist() == [[1.0] * 3] * 4 and weights.read("b").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", [".", "archive"])
def test_a_step_that_goes_while_it_is_opened_is_looked_for_again(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is replaced, or deleted, when half of it has been summed up."""
    store = CheckpointStore(tmp_path, keep=1, archive_every=5)
    save(store, 5)
    require_sound, folders = archive.require_sound, []

    def interrupted(folder: Path, part: str) -> None:
        folders.append(folder)
        if len(folders) == 1:
            if place == ".":
                store.save(snapshot(5, value=2.0, epoch=9), permit=lambda: None, done=lambda: None)
                store.wait()
            else:
                save(store, 6)
        require_sound(folder, part)

    monkeypatch.setattr(archive, "require_sound", interrupted)
    assert value_of(tmp_path, 5) == (2.0 if place == "." else 1.0)
    assert folders == [tmp_path / "step-00000005", tmp_path / place / "step-00000005"]


def test_an_unknown_step_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoints in .*the first is written after checkpoint.every_steps"):
        open_weights(tmp_path)
    store = CheckpointStore(tmp_path, keep=2, archive_every=6)
    save(store, 6, 7, 8, 9)
    with pytest.raises(ModelError, match=r"no weights of step 7 in .*, but of 6, 8, 9; .*checkpoint.archive_every"):
        open_weights(tmp_path, 7)
    store = CheckpointStore(tmp_path, keep=30)
    save(store, *range(10, 40))
    with pytest.raises(ModelError, match=r"but of 11 more and 20, 21, .* 39; the newest"):
        open_weights(tmp_path, 100)


@pytest.mark.parametrize("damage", ["flip", "lose"])
@pytest.mark.parametrize("file", ["weights/00001.safetensors", "digests.json"])
def test_damaged_weights_are_refused(tmp_path: Path, file: str, damage: str) -> None:
    save(CheckpointStore(tmp_path, keep=1), 5)
    path = tmp_path / "step-00000005" / file
    content = bytearray(path.read_bytes())
    if damage == "lose":
        path.unlink()
    else:
        content[-1] ^= 0x20
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"step-00000005 (are damaged|cannot be read).*name another step"):
        open_weights(tmp_path)
