import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler

from areal.broker.errors import ConfigError
from areal.denoising.classes import ClassPipeline, consistency
from areal.denoising.mlp import ConsistencyMlp
from areal.denoising.schedule import schedule_of
from areal.launch.config import load_pretrain_config
from areal.learner.config import ConsistencyConfig
from areal.learner.consistency import Pairs, make, train

SCHEDULE = schedule_of(LCMScheduler(prediction_type="v_prediction"))
NUM_LEVELS = 1000
CONFIGS = Path(__file__).parents[2] / "configs"


def sigma(level: torch.Tensor) -> torch.Tensor:
    scale, std = SCHEDULE.target(level)
    return std / scale


def test_levels_are_drawn_from_a_lognormal_and_come_closer() -> None:
    torch.manual_seed(0)
    config = ConsistencyConfig(output=Path("unused"))
    pairs = Pairs(SCHEDULE, NUM_LEVELS, config)
    ratios = []
    for stage in range(6):
        upper, lower, weight = pairs.draw(20_000, stage)
        assert bool((lower < upper).all()) and int(lower.min()) >= 0
        torch.testing.assert_close(weight, 1 / (sigma(upper) - sigma(lower)))
        assert sigma(upper).log().median().item() == pytest.approx(config.noise_mean, abs=0.05)
        wide = sigma(upper) > 1
        ratios.append((sigma(lower) / sigma(upper))[wide].mean().item())
    assert ratios == sorted(ratios)
    sigmoid = 1 / (1 + math.exp(5.0))  # of -5, where a step of the last stage is (1 + 8*sigmoid)/64 below sigma = 5
    upper, lower, _ = pairs.draw(200_000, 5)
    near = (sigma(upper) - 5).abs() < 0.05
    assert (sigma(lower) / sigma(upper))[near].mean().item() == pytest.approx(1 - (1 + 8 * sigmoid) / 64, abs=0.004)


def trained(seed: int, steps: int = 150) -> ConsistencyMlp:
    """On images of two classes, all dark and all bright."""
    torch.manual_seed(seed)
    network = ConsistencyMlp(sample_size=2, num_class_embeds=2, width=32, depth=1)
    labels = torch.arange(64) % 2
    images = (labels - 0.5).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2) + 0.02 * torch.randn(64, 1, 2, 2)
    config = ConsistencyConfig(output=Path("unused"), steps=steps, batch_size=64, lr=5e-3, ema=0.95)
    train(network, SCHEDULE, images_ND=images, labels_N=labels, config=config, num_levels=NUM_LEVELS)
    return network


def test_one_evaluation_makes_an_image_of_its_class_from_noise() -> None:
    network, labels = trained(0, steps=400), torch.arange(100) % 2
    with torch.no_grad():
        images = consistency(network, SCHEDULE, torch.randn(100, 1, 2, 2), torch.full((100,), 999), labels)
    means = [images[labels == label].mean().item() for label in (0, 1)]
    assert means == pytest.approx([-0.5, 0.5], abs=0.1)


def test_the_same_seed_makes_the_same_model() -> None:
    first, again, other = (trained(seed, steps=20).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def tiny(output: Path, **changes: Any) -> ConsistencyConfig:
    return ConsistencyConfig(output=output, steps=3, batch_size=8, width=16, depth=1, **changes)


def test_a_model_is_written_as_diffusers_has_it(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    torch.manual_seed(5)
    before = torch.get_rng_state()
    result = make(tiny(tmp_path / "a"), reports.append)
    assert torch.equal(torch.get_rng_state(), before)
    make(tiny(tmp_path / "b"), lambda record: None)
    make(tiny(tmp_path / "c", seed=1), lambda record: None)
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    first, again, other = ((tmp_path / name / weights).read_bytes() for name in "abc")
    assert first == again != other
    pipeline = ClassPipeline.from_pretrained(tmp_path / "a", local_files_only=True)
    assert sum(weight.numel() for weight in pipeline.unet.parameters()) == result["parameters"]
    assert [image.size for image in pipeline([3, 7])] == [(32, 32)] * 2
    assert [report["evaluations"] for report in reports if "evaluations" in report] == ["none (real)", 1, 2, 4, 8]


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"consistency.output: the folder .*file/model cannot be made"):
        make(tiny(tmp_path / "file" / "model"), lambda record: None)


@pytest.mark.slow
def test_digits_are_learned(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    config = load_pretrain_config(CONFIGS / "consistency_digits.yaml", [f"consistency.output={tmp_path}"])
    assert isinstance(config, ConsistencyConfig)
    make(config, reports.append)
    found = {report["evaluations"]: report for report in reports if "evaluations" in report}
    for count in (1, 2, 4, 8):
        assert found[count]["accuracy"] > 0.95 and found[count]["frechet"] < 2 and found[count]["diversity"] > 0.25, (
            found
        )
