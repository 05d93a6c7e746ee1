import pytest

from areal.launch.cluster.beside import NOTHING, beside_all
from areal.launch.cluster.nvidia import Gpu, Gpus
from areal.launch.doctor import gpus as looked_at
from areal.launch.doctor.cuda import Torch
from areal.launch.doctor.gpus import look_at_gpus, look_at_shares, shares_of

from .conftest import Configure

FREE, USED = Gpu("NVIDIA A", 24576, 3, "570.1"), Gpu("NVIDIA A", 24576, 20000, "570.1")
WELL = Torch("2.13.0+cu130", "13.0", 1)


def test_an_nvidia_smi_that_fails_is_a_warning_with_what_it_said() -> None:
    (told,) = look_at_gpus(Gpus(error="Driver/library version mismatch"))
    assert told.level == "warning" and "Driver/library version mismatch" in told.seen and told.remedy


def test_torch_is_not_asked_where_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looked_at, "ask_torch", None)
    (told,) = look_at_gpus(Gpus())
    assert (told.level, told.seen) == ("ok", "none: everything runs on the CPU")


def test_gpus_that_are_in_use_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looked_at, "ask_torch", lambda: Torch("2.13.0+cu130", "13.0", 2))
    both, torch, busy = look_at_gpus(Gpus([FREE, USED]))
    assert "2 × NVIDIA A (24,576 MiB), driver 570.1" in both.seen and torch.level == "ok"
    assert busy.level == "warning" and "1 of 2 are in use" in busy.seen


@pytest.mark.parametrize(
    ("torch", "gpus", "level", "says", "remedy"),
    [
        (WELL, 1, "ok", "2.13.0+cu130 (CUDA 13.0) can use 1 of 1", ""),
        (WELL, 2, "warning", "can use 1 of 2", "CUDA_VISIBLE_DEVICES"),
        (Torch("2.13.0+cpu", error="not compiled"), 1, "problem", "built without CUDA", "areal-rl[gpu]"),
        (Torch("2.13.0", "13.0", 0, "driver too old"), 1, "problem", "cannot use them: driver too old", "CUDA 13.0"),
        (Torch("2.13.0", "13.0", 0), 1, "problem", "it sees none", "570.1"),
        (Torch(error="it did not answer within 45 s"), 1, "problem", "did not answer within 45 s", "import torch"),
    ],
)
def test_torch_is_asked_whether_it_can_use_them(
    torch: Torch, gpus: int, level: str, says: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looked_at, "ask_torch", lambda: torch)
    _, told = look_at_gpus(Gpus([FREE] * gpus))
    assert (told.check, told.level) == ("torch", level) and says in told.seen and remedy in told.remedy


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


def test_workers_that_may_come_have_shares_too(configure: Configure) -> None:
    few = ("cluster.address=auto", "broker.url=redis://10.0.0.1", "rewards.where=ray", "rewards.workers=2")
    more = (*few, "cluster.autoscale={min: 1, max: 4}", "rewards.resources.custom={judge: 1}")
    assert shares_of(configure(*few), 3).rollout == 1 and shares_of(configure(*more), 3).rollout == 0.5
    assert beside_all(configure(*more)).resources == {
        "CPU": 8 * configure().rewards.resources.cpus,
        "GPU": 0,
        "judge": 8,
    }
    assert beside_all(configure()) == NOTHING
