import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMScheduler,
    DiTPipeline,
    LCMScheduler,
)

from areal.broker.errors import ConfigError, ModelError
from areal.denoising.adapter import Adapter
from areal.denoising.classes import ClassModel, ClassPipeline, consistency
from areal.denoising.config import DenoisingConfig
from areal.denoising.models import load_image_model
from areal.denoising.prompts import PromptModel

from .test_classes import tiny_unet
from .test_mlp import moved
from .tiny import latent_consistency_pipeline, xl_pipeline


def of_classes(folder: Path, scheduler: object) -> str:
    ClassPipeline(moved(in_channels=1), scheduler).save_pretrained(folder)
    return str(folder)


def test_the_pipeline_decides_which_model_it_is(tmp_path: Path) -> None:
    classes = of_classes(tmp_path / "classes", LCMScheduler())
    assert isinstance(load_image_model(classes, DenoisingConfig()), ClassModel)
    latent_consistency_pipeline().save_pretrained(tmp_path / "prompts")
    model = load_image_model(str(tmp_path / "prompts"), DenoisingConfig(guidance=8), dtype=torch.bfloat16)
    assert isinstance(model, PromptModel)
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_model_of_classes_is_asked_for_nothing_that_it_lacks(tmp_path: Path) -> None:
    folder = of_classes(tmp_path, LCMScheduler())
    for config, complaint in (
        (DenoisingConfig(guidance=2), "denoising.guidance: 2, and a model of classes is told none"),
        (DenoisingConfig(image_size=64), "denoising.image_size: 64, and a model of classes has none"),
        (DenoisingConfig(consistency_lora="lcm"), "denoising.consistency_lora: lcm, and a model of classes has none"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            load_image_model(folder, config)


def test_what_is_no_pipeline_of_a_consistency_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="the pipeline's scheduler is a DDPMScheduler, and a consistency model is sampled by"
    ):
        load_image_model(of_classes(tmp_path / "ddpm", DDPMScheduler()), DenoisingConfig())
    xl_pipeline().save_pretrained(tmp_path / "xl")
    with pytest.raises(ModelError, match=r"EulerDiscreteScheduler.*consistency LoRA"):
        load_image_model(str(tmp_path / "xl"), DenoisingConfig())
    with pytest.raises(ModelError, match=r"has no model_index\.json, so it is not a pipeline of diffusers"):
        load_image_model(str(tmp_path), DenoisingConfig())
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": DiTPipeline.__name__, "vae": ["diffusers", "X"]})
    )
    with pytest.raises(
        ModelError, match="is a DiTPipeline without text_encoder, tokenizer, unet, scheduler; wanted is"
    ):
        load_image_model(str(tmp_path), DenoisingConfig())


def test_damaged_pipelines_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    latent_consistency_pipeline().save_pretrained(folder)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"the pipeline at .*whole cannot be loaded: "):
        load_image_model(str(folder), DenoisingConfig())
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match=r"model_index.json cannot be read"):
        load_image_model(str(folder), DenoisingConfig())
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"does not say what the pipeline is \(_class_name\)"):
        load_image_model(str(folder), DenoisingConfig())


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")  # of diffusers
def test_a_pipeline_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no/such is no folder here, and no pipeline of the hub"):
        load_image_model("no/such", DenoisingConfig())


def consistency_pipeline(classes: int | None) -> ConsistencyModelPipeline:
    """As those of diffusers' consistency models of ImageNet, in small, with attention."""
    return ConsistencyModelPipeline(tiny_unet(classes, attention=True), CMStochasticIterativeScheduler())


def test_a_consistency_model_of_diffusers_is_one_of_classes(tmp_path: Path) -> None:
    pipeline = consistency_pipeline(3)
    pipeline.save_pretrained(tmp_path)
    model = load_image_model(str(tmp_path), DenoisingConfig())
    assert isinstance(model, ClassModel) and model.latent_shape == (3, 8, 8)
    x, levels, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 20]), torch.tensor([1, 2])
    conditions = [{"label": int(label)} for label in labels]
    with torch.no_grad():
        wanted = consistency(pipeline.unet.eval(), model.schedule, x, levels, labels)
        torch.testing.assert_close(model.denoise(conditions)(x, levels), wanted)
        torch.manual_seed(0)
        adapter = Adapter(model.network, rank=2, alpha=4, targets="attention")
        assert len(adapter.parameters()) == 2 * 4 * 2  # two attentions, each of four layers
        torch.testing.assert_close(model.denoise(conditions)(x, levels), wanted)
        for parameter in adapter.parameters():
            parameter.add_(0.5)
        assert not torch.allclose(model.denoise(conditions)(x, levels), wanted)
        with adapter.off():
            torch.testing.assert_close(model.denoise(conditions)(x, levels), wanted)
    assert {image.size for image in model.decode(x)} == {(8, 8)}
    adapter.save(tmp_path / "adapter")
    again = load_image_model(str(tmp_path), DenoisingConfig()).network
    again.load_lora_adapter(tmp_path / "adapter", prefix=None, use_safetensors=True)  # type: ignore[operator]


@pytest.mark.parametrize(
    "made", [lambda: ClassPipeline(moved(in_channels=3), LCMScheduler()), lambda: consistency_pipeline(3)]
)
def test_a_model_of_classes_in_half_precision_is_near_the_same(made: Callable[[], Any], tmp_path: Path) -> None:
    """The adapter stays in float32, and so does what is not the network's."""
    made().save_pretrained(tmp_path)
    levels, conditions = torch.tensor([0, 20]), [{"label": 1}, {"label": 2}]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_image_model(str(tmp_path), DenoisingConfig(), dtype=dtype)
        torch.manual_seed(0)
        x = torch.randn(2, *model.latent_shape)
        Adapter(model.network, rank=2, alpha=4, targets="all-linear")
        found.append(model.denoise(conditions)(x, levels).detach())
        assert found[-1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05)


def test_a_consistency_model_of_diffusers_without_classes_is_refused(tmp_path: Path) -> None:
    consistency_pipeline(None).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the network has no classes"):
        load_image_model(str(tmp_path), DenoisingConfig())
