"""Tensors in folders of shards: written by some ranks, read by others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from areal.broker.errors import ModelError
from areal.learner.archive import open_weights
from areal.learner.checkpoint import CheckpointStore
from areal.learner.shards import Shards, write_shards

from .sharded import owned, sharded

ROOT = Path(__file__).parents[2]


def run_ranks(task: str, world: int, folder: Path) -> list[str]:
    """What each rank says of a task that all do together."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.learner.sharded", task, str(rank), str(world), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        said = [rank.communicate(timeout=90)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, said
    return said


def assert_whole(store: CheckpointStore) -> None:
    """As one rank finds it."""
    checkpoint = store.load_latest()
    assert checkpoint is not None and checkpoint.state.step == 6 and checkpoint.state.trained == [[0, 6]]
    wanted = {"weights": owned(), "critic": sharded(), "optimizer": sharded() | {"0.step": torch.tensor(3.0)}}
    assert checkpoint.parts() == set(wanted) and checkpoint.rng.tolist() == [0] * 4
    for part, tensors in wanted.items():
        read, filled = checkpoint.read(part), {name: torch.full_like(tensor, 9) for name, tensor in tensors.items()}
        checkpoint.fill(part, filled)
        for found in (read, filled):
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), part
            assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items()), part


@pytest.mark.parametrize("saved_on", [1, 2])
def test_what_some_ranks_save_others_load(tmp_path: Path, saved_on: int) -> None:
    first, *others = run_ranks("save", saved_on, tmp_path)
    assert first.splitlines() == ["called permit permit done permit done done", "refused Fenced epoch 7 is over"]
    for said in others:
        assert said.splitlines() == [
            "called",
            "refused ArealError the first rank could not save: Fenced: epoch 7 is over",
        ]
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [".7.partial", "archive", "step-00000006"]
    assert len(list((checkpoints / "step-00000006" / "weights").iterdir())) == saved_on
    assert_whole(CheckpointStore(checkpoints, keep=1))
    assert open_weights(checkpoints, 5).read("layer.1").equal(owned()["layer.1"])
    for said in run_ranks("load", 3 - saved_on, tmp_path) + (run_ranks("load", 2, tmp_path) if saved_on == 2 else []):
        assert said == "loaded 6 3.0 [0, 0, 0, 0]\n"


@pytest.fixture
def written(tmp_path: Path) -> Shards:
    write_shards(tmp_path / "part", {"a": torch.ones(2, 3), "b": torch.arange(4)})
    return Shards(tmp_path / "part")


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": torch.zeros(2, 3)}, "1 names differ, 'b' first"),
        (
            {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.long), "c": torch.zeros(1)},
            "1 names differ, 'c' fir",
        ),
        (
            {"a": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.long)},
            r"'a' is float32\[2, 3\] there, and float32\[3, 2\]",
        ),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, r"'b' is int64\[4\] there, and float32\[4\] here"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_left(written: Shards, tensors: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        written.fill(tensors)
    assert not any(tensor.any() for tensor in tensors.values())


def test_parameters_and_tensors_that_do_not_lie_together_are_filled(written: Shards) -> None:
    parameter, across = torch.nn.Parameter(torch.zeros(2, 3)), torch.zeros(8, dtype=torch.long)
    written.fill({"a": parameter, "b": across[::2]})
    assert parameter.eq(1).all() and across.tolist() == [0, 0, 1, 0, 2, 0, 3, 0]
