import dataclasses
import errno
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Parameter

from areal.broker.errors import ArealError, Fenced, ModelError
from areal.learner import checkpoint, saved
from areal.learner.best import BestWeights
from areal.learner.checkpoint import CheckpointStore, LearnerState, Snapshot
from areal.learner.config import OptimizerConfig
from areal.learner.optimizer import Optimizer
from areal.learner.saved import give_name, read_state
from areal.learner.staging import Staging


def snapshot(step: int, value: float = 1.0, epoch: int = 6) -> Snapshot:
    state = LearnerState(step, step + 3, [(0, 4 * step)], epoch, [(3, 1), (9, 2)])
    weights = {"a.weight": torch.full((4, 3), value), "b": torch.arange(5.0)}
    critic = {"weights.head.bias": torch.full((1,), value)}
    return Snapshot(state, weights, {"0.exp_avg": torch.full((4, 3), -value)}, critic, torch.get_rng_state())


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(snapshot(step), permit=lambda: None, done=lambda: None)
    store.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.load_latest() is None
    save(store, 20)
    loaded = CheckpointStore(tmp_path / "checkpoints", keep=2).load_latest()
    assert loaded is not None
    wanted = snapshot(20)
    assert (loaded.state.step, loaded.state.version, loaded.state.epoch) == (20, 23, 6)
    assert [tuple(pair) for pair in loaded.state.trained] == [(0, 80)]
    assert [tuple(pair) for pair in loaded.state.resumes] == [(3, 1), (9, 2)]
    for part in ("weights", "optimizer", "critic"):
        ours = loaded.read(part)
        assert ours.keys() == getattr(wanted, part).keys()
        assert all(torch.equal(tensor, getattr(wanted, part)[name]) for name, tensor in ours.items()), part
    assert torch.equal(loaded.rng, wanted.rng)


def test_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5, 10, 15, 100)
    assert names(tmp_path) == ["step-00000015", "step-00000100"]
    save(store, 100)
    latest = store.load_latest()
    assert latest is not None and latest.state.step == 100


def test_that_of_a_step_is_loaded_while_it_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5, 10, 15)
    assert store.load(10).state.step == 10
    with pytest.raises(ModelError, match=r"there is no checkpoint of step 5 in .*; those there: 10, 15"):
        store.load(5)


def test_the_same_state_is_written_once(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    written = (tmp_path / "step-00000005").stat().st_ino
    done: list[int] = []
    store.save(snapshot(5), permit=lambda: None, done=lambda: done.append(5))
    store.wait()
    assert done == [5] and (tmp_path / "step-00000005").stat().st_ino == written


def test_another_state_of_the_same_step_takes_its_place(tmp_path: Path) -> None:
    """A learner that resumed, and was drained before its next step, has another version and epoch."""
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 4, 5)
    store.save(snapshot(5, value=7.0, epoch=8), permit=lambda: None, done=lambda: None)
    store.wait()
    assert names(tmp_path) == ["step-00000004", "step-00000005"]
    loaded = store.load_latest()
    assert loaded is not None and (loaded.state.step, loaded.state.epoch) == (5, 8)
    assert loaded.read("weights")["a.weight"].unique().tolist() == [7.0]
    assert loaded.read("optimizer")["0.exp_avg"].unique().tolist() == [-7.0]


def test_it_is_durable_before_it_is_done(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    seen: list[list[str]] = []
    store.save(snapshot(5), permit=lambda: None, done=lambda: seen.append(names(tmp_path)))
    store.wait()
    assert seen == [["step-00000005"]]


def test_nothing_is_done_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = CheckpointStore(tmp_path / "file", keep=2)
    done: list[int] = []
    store.save(snapshot(5), permit=lambda: None, done=lambda: done.append(5))
    with pytest.raises(OSError):
        store.save(snapshot(6), permit=lambda: None, done=lambda: done.append(6))
    assert done == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), SafetensorError("IoError: No space left")])
def test_a_disk_that_is_full_stops_training_and_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Half of it is written when the room ends."""
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    written = checkpoint.write_shards

    def fails(folder: Path, tensors: dict[str, Tensor], group: object = None) -> None:
        if folder.name == "optimizer":
            raise error
        written(folder, tensors)

    monkeypatch.setattr(checkpoint, "write_shards", fails)
    done: list[int] = []
    store.save(snapshot(6), permit=lambda: None, done=lambda: done.append(6))
    wait([store._behind._last], 10)
    with pytest.raises(
        ArealError, match=r"step 6 cannot be saved in .*No space left.*make room there, or lower checkpoint.keep"
    ):
        store.await_copy()
    assert names(tmp_path) == ["step-00000005"] and done == []


def test_an_error_of_what_follows_is_raised(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("the broker is gone")

    store = CheckpointStore(tmp_path, keep=2)
    store.save(snapshot(5), permit=lambda: None, done=fails)
    with pytest.raises(RuntimeError, match="the broker is gone"):
        store.wait()


def test_one_half_written_is_never_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    partial = tmp_path / ".7.partial" / "weights"
    partial.mkdir(parents=True)
    (partial / "00001.safetensors").write_bytes(b"half")
    loaded = store.load_latest()
    assert loaded is not None and loaded.state.step == 5
    save(store, 10)
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


@pytest.mark.parametrize(
    "file",
    [
        "weights/00001.safetensors",
        "optimizer/00001.safetensors",
        "random/00001.safetensors",
        "state.json",
        "digests.json",
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_a_damaged_one_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    path = tmp_path / "step-00000005" / file
    content = bytearray(path.read_bytes())
    if damage == "lose":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[content.rindex(b"1") if path.suffix == ".json" else -1] ^= 0x01  # of a number another one
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"step-00000005 .*delete it to resume before it"):
        store.load_latest()


def test_a_learner_that_leads_no_more_writes_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    done: list[int] = []

    def refuse() -> None:
        raise Fenced("epoch 6 is over")

    store.save(snapshot(6), permit=refuse, done=lambda: done.append(6))
    with pytest.raises(Fenced):
        store.wait()
    loaded = store.load_latest()
    assert loaded is not None and loaded.state.step == 5 and done == []


def test_training_waits_for_the_copy_and_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next update comes while nothing, or a part, has been copied, and its state is not mixed in.

    The writing does not begin before that update is over.
    """
    may_begin, may_write, copy, written = threading.Event(), threading.Event(), Staging._copy, checkpoint.write_shards

    def slow(staging: Staging, key: tuple[str, str], tensor: Tensor) -> Tensor:
        assert may_begin.wait(10)
        time.sleep(0.02)
        return copy(staging, key, tensor)

    def later(*given: Any) -> None:
        assert may_write.wait(10)
        written(*given)

    monkeypatch.setattr(Staging, "_copy", slow)
    monkeypatch.setattr(checkpoint, "write_shards", later)
    store = CheckpointStore(tmp_path, keep=2)
    parameters = [Parameter(torch.full((3,), float(number))) for number in range(6)]
    optimizer = Optimizer(parameters, OptimizerConfig(lr=0.1), total_steps=9)
    optimizer.before_update(store.await_copy)

    def update(step: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.full((3,), 1.0 + step)
        optimizer.step(step)

    update(0)
    before = copied_now(optimizer.state())
    made = dataclasses.replace(snapshot(1), optimizer=optimizer.state())
    store.save(made, permit=lambda: None, done=lambda: None)
    threading.Timer(0.1, may_begin.set).start()
    update(1)
    may_write.set()
    after = copied_now(optimizer.state())
    store.wait()
    there = store.load(1).read("optimizer")
    assert there.keys() == before.keys() and all(torch.equal(there[name], before[name]) for name in before)
    assert not any(torch.equal(after[name], before[name]) for name in before)


def copied_now(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_a_copy_that_cannot_be_made_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def fails(*_: object) -> Tensor:
        raise MemoryError("no memory is left")

    monkeypatch.setattr(Staging, "_copy", fails)
    store = CheckpointStore(tmp_path, keep=2)
    store.save(snapshot(1), permit=lambda: None, done=lambda: None)
    with pytest.raises(MemoryError, match="no memory is left"):
        store.await_copy()
        store.wait()
    assert names(tmp_path) == []


def test_what_does_not_fit_a_checkpoint_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    latest = store.load(5)
    wanted = r"weights of the checkpoint .*step-00000005 cannot be taken over: 1 names differ, 'b' first; .*model.lora"
    with pytest.raises(ModelError, match=wanted):
        latest.fill("weights", {"a.weight": torch.zeros(4, 3)})


@pytest.mark.parametrize("place", ["", "archive", "best"])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_crash_while_a_step_is_replaced_leaves_it(
    tmp_path: Path, place: str, renamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the old one's losing the name of the step and the new one's getting it, or just after."""
    folder, aside = tmp_path / place / "step-00000005", tmp_path / ".7.partial"
    save(CheckpointStore(tmp_path, keep=1), 5)
    if place:
        give_name(tmp_path / "step-00000005", folder)
    shutil.copytree(folder, aside)
    if renamed:
        monkeypatch.setattr(saved.shutil, "rmtree", crash)
    else:
        monkeypatch.setattr(Path, "rename", crash_at(aside, Path.rename))
    with pytest.raises(KeyboardInterrupt):
        give_name(aside, folder)
    monkeypatch.undo()
    store = CheckpointStore(tmp_path, keep=1)
    latest = store.load_latest()
    assert place or (latest is not None and latest.state.step == 5)
    store.sweep()
    BestWeights(store, tmp_path, keep=1, epoch=9, permit=lambda: None).sweep()
    assert read_state(folder)["step"] == 5
    assert names(tmp_path) == [folder.relative_to(tmp_path).parts[0]] and names(folder.parent)[0] == folder.name


def crash(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def crash_at(path: Path, do: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    """Renames everything but that."""

    def rename(this: Path, to: Path) -> Path:
        return crash() or this if this == path else do(this, to)

    return rename


def test_what_a_learner_wrote_that_led_no_more_goes_with_the_next(tmp_path: Path) -> None:
    """It had leave, was frozen, and named its step when another had gone on from an earlier one."""
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 40)
    save(store, 30)
    assert names(tmp_path) == ["step-00000030"]


def test_what_was_left_half_written_is_swept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    (tmp_path / ".7.partial" / "weights").mkdir(parents=True)
    store.sweep()
    assert names(tmp_path) == ["step-00000005"]
