import importlib.metadata
from pathlib import Path

import pytest

from areal.launch.doctor.gpus import Gpu, find_gpus, look_at_gpus, look_at_shares

from .conftest import Configure

TWO = "NVIDIA A, 24576, 3, 570.1\nNVIDIA A, 24576, 20000, 570.1\nnonsense\n"
FREE, USED = Gpu("NVIDIA A", 24576, 3, "570.1"), Gpu("NVIDIA A", 24576, 20000, "570.1")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command of that name, which tells of two GPUs, and of nothing else on the PATH."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{TWO}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return command


def test_gpus_are_those_that_nvidia_smi_tells_of_and_that_may_be_seen(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_gpus() == [FREE, USED]
    for said, seen in (("1", [USED]), ("1,0,7", [USED, FREE]), ("", []), ("-1", []), ("GPU-a", [FREE])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert find_gpus() == seen, said
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert find_gpus() == []
    nvidia_smi.unlink()
    assert find_gpus() == []


def test_gpus_that_torch_cannot_use_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.13.0+cpu")
    told, unusable = look_at_gpus([FREE])
    assert told.level == "ok" and "1 × NVIDIA A (24,576 MiB), driver 570.1" in told.seen
    assert unusable.level == "problem" and "areal-rl[gpu]" in unusable.remedy
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.13.0+cu130")
    assert [finding.level for finding in look_at_gpus([FREE])] == ["ok"]
    both, busy = look_at_gpus([FREE, USED])
    assert "2 × NVIDIA A" in both.seen and busy.level == "warning" and "1 of 2 are in use" in busy.seen
    assert [finding.level for finding in look_at_gpus([])] == ["ok"]


@pytest.mark.parametrize(
    ("gpus", "overrides", "levels"),
    [
        (0, (), []),
        (0, ("rollout.engine.tensor_parallel_size=2",), ["problem"]),
        (1, (), ["ok"]),
        (3, ("rollout.engine.tensor_parallel_size=2",), ["ok"]),
        (2, ("rollout.engine.tensor_parallel_size=2",), ["problem"]),
        (2, ("learner.ranks=2",), ["problem"]),
        (2, ("rewards.where=ray", "rewards.resources.gpus=2"), ["problem"]),
        (3, ("rewards.where=ray", "rewards.resources.gpus=0.5"), ["ok"]),
        (0, ("cluster.resources.learner.gpus=1",), ["problem"]),
        (2, ("cluster.resources.learner.gpus=1", "cluster.resources.rollout.gpus=1"), ["ok"]),
        (1, ("cluster.resources.learner.gpus=1", "cluster.resources.rollout.gpus=1"), ["problem"]),
        (1, ("cluster.resources.learner.gpus=0.5", "cluster.resources.rollout.gpus=0.5"), ["ok"]),
        (2, ("cluster.resources.learner.gpus=0.5", "learner.ranks=2"), ["problem"]),
    ],
)
def test_gpus_are_enough_or_not(gpus: int, overrides: tuple[str, ...], levels: list[str], configure: Configure) -> None:
    assert [finding.level for finding in look_at_shares(configure(*overrides), gpus)] == levels
