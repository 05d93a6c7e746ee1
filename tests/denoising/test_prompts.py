import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from PIL import Image

from areal.broker.errors import ConfigError, EngineError, ModelError
from areal.denoising.config import DenoisingConfig
from areal.denoising.noise import Noise
from areal.denoising.prompts import PromptModel
from areal.denoising.sampler import sample

from .tiny import PIXELS, latent_consistency_pipeline, save_consistency_lora, xl_pipeline

PROMPTS = ["a cat", "the fox reads", "a cat"]
STEPS = 4


def made(model: PromptModel, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """Images of our own sampler."""
    conditions = [model.condition({"prompt": prompt}) for prompt in prompts]
    noise = Noise(seeds, model.latent_shape)
    with torch.no_grad():
        chain = sample(model.denoise(conditions), model.schedule, model.schedule.levels(STEPS), noise)
    return model.decode(chain.clean)


def made_by(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[Image.Image]:
    """Images of the pipeline's own call, of the same noise."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = pipeline.unet.config.sample_size
    start = torch.stack([torch.randn(4, size, size, generator=generator) for generator in generators])
    images: list[Image.Image] = pipeline(
        list(prompts), num_inference_steps=STEPS, generator=generators, latents=start, **options
    ).images
    return images


def assert_same(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> None:
    """To one in 255: prompts are encoded and images decoded in other batches."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.size == other.size == (PIXELS, PIXELS)
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def consistent_xl(folder: Path) -> Any:
    """SDXL with a consistency LoRA in that folder, and nothing on it yet."""
    save_consistency_lora(xl_pipeline(), folder)
    return xl_pipeline()


def test_a_latent_consistency_model_makes_what_its_pipeline_makes() -> None:
    pipeline, seeds = latent_consistency_pipeline(), [3, 4, 5]
    theirs = made_by(pipeline, PROMPTS, seeds, guidance_scale=8.0)
    ours = made(PromptModel(pipeline, DenoisingConfig(guidance=8)), PROMPTS, seeds)
    assert_same(ours, theirs)
    assert len({image.tobytes() for image in ours}) == 3


def test_guidance_is_told_to_a_network_that_knows_it() -> None:
    pipeline = latent_consistency_pipeline()
    (eight,) = made(PromptModel(pipeline, DenoisingConfig(guidance=8)), PROMPTS[:1], [3])
    (two,) = made(PromptModel(pipeline, DenoisingConfig(guidance=2)), PROMPTS[:1], [3])
    assert eight.tobytes() != two.tobytes()


def test_sdxl_with_a_consistency_lora_makes_what_its_pipeline_makes(tmp_path: Path) -> None:
    ours = consistent_xl(tmp_path)
    theirs = xl_pipeline(LCMScheduler.from_config(ours.scheduler.config))
    theirs.load_lora_weights(tmp_path)
    (bare,) = made_by(xl_pipeline(theirs.scheduler), PROMPTS[:1], [3], guidance_scale=1.0)
    expected = made_by(theirs, PROMPTS, [3, 4, 5], guidance_scale=1.0)
    assert bare.tobytes() != expected[0].tobytes()
    model = PromptModel(ours, DenoisingConfig(consistency_lora=str(tmp_path)))
    assert_same(made(model, PROMPTS, [3, 4, 5]), expected)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_prompt_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = latent_consistency_pipeline()
    model, encoded = PromptModel(pipeline, DenoisingConfig()), []
    encode = pipeline.encode_prompt

    def counted(prompt: str, **options: Any) -> Any:
        encoded.append(prompt)
        return encode(prompt=prompt, **options)

    monkeypatch.setattr(pipeline, "encode_prompt", counted)
    for _ in range(2):
        made(model, PROMPTS, [0, 1, 2])
    assert encoded == ["a cat", "the fox reads"]


def test_the_prompt_is_a_column_or_what_the_last_message_says() -> None:
    model = PromptModel(latent_consistency_pipeline(), DenoisingConfig())
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "a cat"}]
    assert (
        model.condition({"prompt": "a cat", "seed": 3})
        == model.condition({"messages": messages})
        == {"prompt": "a cat"}
    )
    with pytest.raises(ConfigError, match=r"the prompt None.*`messages` of which the last has one \(dataset.source\)"):
        model.condition({"label": 3})


def test_images_are_of_the_size_that_is_asked_for() -> None:
    model = PromptModel(latent_consistency_pipeline(), DenoisingConfig(image_size=24))
    assert model.latent_shape == (4, 12, 12)
    (image,) = made(model, PROMPTS[:1], [0])
    assert image.size == (24, 24)
    with pytest.raises(ConfigError, match=r"denoising.image_size: 25, .* a multiple of 2 pixels: take 24"):
        PromptModel(latent_consistency_pipeline(), DenoisingConfig(image_size=25))


def test_many_images_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.denoising.prompts.DECODED_PIXELS", 2 * PIXELS**2)
    model = PromptModel(latent_consistency_pipeline(), DenoisingConfig())
    clean_MD = torch.randn(5, *model.latent_shape)
    in_parts = model.decode(clean_MD)
    monkeypatch.undo()
    assert_same(in_parts, model.decode(clean_MD))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_makes_nearly_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    for whole, config in (
        (latent_consistency_pipeline(), DenoisingConfig(guidance=8)),
        (consistent_xl(tmp_path), DenoisingConfig(consistency_lora=str(tmp_path))),
    ):
        half = (latent_consistency_pipeline() if config.guidance == 8 else xl_pipeline()).to(dtype)
        (exact,), (rounded,) = (made(PromptModel(each, config), ["a cat"], [0]) for each in (whole, half))
        assert 0 < np.abs(np.asarray(exact, int) - np.asarray(rounded, int)).max() < 32


def test_latents_that_are_no_numbers_are_not_shown() -> None:
    model = PromptModel(latent_consistency_pipeline(), DenoisingConfig())
    with warnings.catch_warnings(), pytest.raises(EngineError, match=r"not finite in torch.float32: try model.dtype"):
        model.decode(torch.full((1, *model.latent_shape), torch.nan))


def test_what_is_no_consistency_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a EulerDiscreteScheduler.*with a consistency LoRA needs its scheduler set"):
        PromptModel(xl_pipeline(), DenoisingConfig())
    with pytest.raises(ConfigError, match=r"denoising.guidance: 7.5, and the network has no guidance embedding"):
        PromptModel(consistent_xl(tmp_path), DenoisingConfig(consistency_lora=str(tmp_path), guidance=7.5))
    with pytest.raises(ModelError, match=r"the VAE's latents have 4"):
        PromptModel(latent_consistency_pipeline(in_channels=9), DenoisingConfig())


def test_a_lora_for_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"denoising.consistency_lora: .*empty is no LoRA for this network"):
        PromptModel(xl_pipeline(), DenoisingConfig(consistency_lora=str(tmp_path / "empty")))
    save_consistency_lora(latent_consistency_pipeline(), tmp_path)
    with pytest.raises(ModelError, match=r"denoising.consistency_lora"):
        PromptModel(xl_pipeline(), DenoisingConfig(consistency_lora=str(tmp_path)))
