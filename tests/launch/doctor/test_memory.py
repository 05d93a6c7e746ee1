from functools import partial
from pathlib import Path

import pytest

from areal.launch.cluster.gpus import GpuShares
from areal.launch.doctor import examination, memory
from areal.launch.doctor.finding import Finding
from areal.launch.doctor.memory import kv_bytes, look_at_memory, look_at_size, need_of
from areal.launch.models.size import ModelSize
from areal.launch.units import GIB

from .conftest import LARGE, SMALL, TOLD, Configure

LORA = "model.lora={rank: 8}"
FULL = GpuShares(1, 1)


def level_of(found: list[Finding], check: str) -> str:
    return next(finding.level for finding in found if finding.check == check)


@pytest.fixture(autouse=True)
def sixteen_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: (16 * GIB, 12 * GIB))


def test_weights_lie_on_the_disk_unless_they_travel_from_memory(configure: Configure) -> None:
    def wanted(*overrides: str) -> float:
        disk, *_ = examination._of_configuration(configure(*overrides), Path("/nowhere"), SMALL, [])
        assert isinstance(disk.look, partial)
        return float(disk.look.args[1])

    assert wanted() == wanted("broker.weights=direct") + 4 * 4_000_000


def test_what_is_trained_costs_16_bytes_a_parameter(configure: Configure) -> None:
    config = configure("learner.tokens_per_microbatch=1")
    need = need_of(config, SMALL, on_gpu=False)
    assert need.learner == pytest.approx(16e6, rel=0.01)  # weights 4, gradients 4, moments 8
    assert (need.weights, need.saved) == (4_000_000, 12_000_000)
    halves = need_of(configure("learner.tokens_per_microbatch=1", "model.dtype=bfloat16"), SMALL, on_gpu=False)
    assert halves.learner == pytest.approx(18e6, rel=0.01)  # weights 2, masters 4, gradients 4, moments 8
    assert (halves.weights, halves.saved) == (2_000_000, 14_000_000)


def test_ranks_lora_and_critics_change_it(configure: Configure) -> None:
    few = "learner.tokens_per_microbatch=1"
    assert need_of(configure(few, "learner.ranks=4"), SMALL, on_gpu=False).learner == pytest.approx(4e6, rel=0.01)
    adapter = need_of(configure(few, LORA), SMALL, on_gpu=False)
    assert adapter.learner == pytest.approx(4e6 + 16 * 16_000, rel=0.01)
    assert adapter.weights == 4 * 16_000
    critic = need_of(configure(few, "algorithm.advantage.name=gae"), SMALL, on_gpu=False)
    assert critic.learner == pytest.approx(32e6, rel=0.01)
    shared = configure(few, "algorithm.advantage={name: gae, critic: {shared: true}}")
    assert need_of(shared, SMALL, on_gpu=False).learner == pytest.approx(16e6, rel=0.01)
    reference = need_of(configure(few, "algorithm.kl.coefficient=0.1"), SMALL, on_gpu=False)
    assert reference.learner == pytest.approx(20e6, rel=0.01) and "reference" in reference.parts


def test_activations_grow_with_the_micro_batch_and_shrink_with_checkpointing(configure: Configure) -> None:
    empty = need_of(configure("learner.tokens_per_microbatch=1"), SMALL, on_gpu=False).learner
    full = need_of(configure(), SMALL, on_gpu=False).learner - empty
    assert full == pytest.approx(4096 * (2 * (8 * 64 + 4 * 192) * 4 + 3 * 4 * 16), rel=0.01)
    less = need_of(configure("model.gradient_checkpointing=true"), SMALL, on_gpu=False).learner - empty
    assert less < 0.6 * full


def test_the_kv_cache_of_a_cpu_holds_one_sequence_or_not(configure: Configure) -> None:
    assert kv_bytes(configure(), SMALL) == 2 * 2 * 2 * 16 * 4 * 128
    well = list(look_at_memory(configure(), SMALL, 0, GpuShares()))
    assert level_of(well, "kv cache") == level_of(well, "memory") == "ok"
    long = ModelSize(SMALL.shapes, TOLD | {"num_hidden_layers": 20_000})
    full = list(look_at_memory(configure(), long, 0, GpuShares()))
    assert level_of(full, "kv cache") == "problem"
    assert "kv_cache_mib to 625" in next(finding.remedy for finding in full if finding.check == "kv cache")


def test_a_length_beyond_the_models_positions_is_a_problem(configure: Configure) -> None:
    config = configure("rollout.engine.max_model_len=1024")
    assert level_of(list(look_at_memory(config, SMALL, 0, GpuShares())), "lengths") == "problem"
    assert [finding.check for finding in look_at_size(config, SMALL)] == ["parameters", "lengths"]
    for key in ("rope_scaling", "rope_parameters"):
        scaled = ModelSize(SMALL.shapes, TOLD | {key: {"rope_type": "yarn", "factor": 4}})
        assert all(finding.check != "lengths" for finding in look_at_memory(config, scaled, 0, GpuShares()))


def test_this_machines_memory_is_enough_or_not(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    assert level_of(list(look_at_memory(configure(), LARGE, 0, GpuShares())), "memory") == "problem"
    monkeypatch.setattr(memory, "machine_bytes", lambda: (16 * GIB, 3 * GIB))
    assert level_of(list(look_at_memory(configure(), SMALL, 0, GpuShares())), "memory") == "warning"
    (unknown,) = look_at_memory(configure(), None, 0, GpuShares())
    assert unknown.level == "warning" and "cannot be told" in unknown.seen


@pytest.mark.parametrize(
    ("gib", "shares", "overrides", "level", "says"),
    [
        (80, FULL, (LORA,), "ok", "the learner needs about"),
        (80, FULL, ("model.dtype=bfloat16",), "problem", "learner.ranks"),
        (24, FULL, (LORA,), "problem", "tensor_parallel_size"),
        (80, GpuShares(0.5, 0.5), (LORA, "rollout.engine.gpu_memory_utilization=0.5"), "ok", "share one"),
        (80, GpuShares(0.5, 0.5), (LORA,), "problem", "gpu_memory_utilization to 0.60"),
        (80, GpuShares(1, 0.5), (LORA,), "problem", "gpu_memory_utilization to 0.47"),
    ],
)
def test_a_gpus_memory_is_enough_or_not(
    gib: int, shares: GpuShares, overrides: tuple[str, ...], level: str, says: str, configure: Configure
) -> None:
    found = list(look_at_memory(configure(*overrides), LARGE, gib * GIB, shares))
    on_gpu = [finding for finding in found if finding.check == "gpu memory"]
    assert level in [finding.level for finding in on_gpu]
    assert any(says in finding.seen + finding.remedy for finding in on_gpu)


def test_a_model_that_sees_images_is_as_large_as_its_language_model(configure: Configure) -> None:
    nested = ModelSize(SMALL.shapes, {"text_config": TOLD})
    assert kv_bytes(configure(), nested) == kv_bytes(configure(), SMALL)


def test_image_policies_are_looked_at_too(configure: Configure) -> None:
    found = list(look_at_memory(configure(name="rlcm_digits_compress"), SMALL, 0, GpuShares()))
    assert [finding.check for finding in found] == ["parameters", "memory"]
