"""From a folder or hub id to a model of images, whatever pipeline of diffusers it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..broker.errors import ConfigError, ModelError
from .config import DenoisingConfig
from .sampler import Denoise
from .schedule import Schedule

OF_CLASSES = "ConsistencyModelPipeline"
"""Of diffusers: a UNet2DModel and a scheduler, in pixels."""
OF_PROMPTS = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
"""What a pipeline of prompts is made of, whatever else it has."""


class ImageModel(Protocol):
    """A pipeline as it is sampled and trained.

    network: what is trained.
    schedule: the levels that it knows.
    latent_shape: of a latent, [C, H, W].
    """

    network: nn.Module
    schedule: Schedule
    latent_shape: tuple[int, ...]

    def condition(self, row: dict[str, Any]) -> dict[str, Any]:
        """What an image is made from, of a row of the data set: JSON values. Raises ConfigError if the row lacks it."""

    def denoise(self, conditions: Sequence[dict[str, Any]]) -> Denoise:
        """f(x, τ) under these conditions, one for each latent."""

    def decode(self, clean_MD: Tensor) -> list[Image.Image]:
        """The images of clean latents, 8 bits a channel."""


def load_image_model(
    path: str, config: DenoisingConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> ImageModel:
    """The model of the pipeline at `path`, its weights frozen and in `dtype`.

    Raises ModelError for what is no pipeline of a consistency model, and ConfigError for settings that it cannot follow.
    """
    _hush()
    from . import mlp  # noqa: F401  # diffusers loads a network of ours once it has been imported
    from .classes import ClassPipeline

    index = _index(path)
    if index["_class_name"] not in (ClassPipeline.__name__, OF_CLASSES):
        return _of_prompts(path, index, config, dtype, device)
    return _of_classes(path, index, config, dtype, device)


def _of_classes(
    path: str, index: dict[str, Any], config: DenoisingConfig, dtype: torch.dtype, device: torch.device | str
) -> ImageModel:
    from .classes import ClassModel, ClassPipeline

    _refuse_for_classes(config)
    if index["_class_name"] == OF_CLASSES:
        from diffusers import ConsistencyModelPipeline

        from .unet import ClassUNet

        pipeline = _loaded(
            ConsistencyModelPipeline, path, dtype, unet=_loaded(ClassUNet, path, dtype, subfolder="unet")
        )
    else:
        pipeline = _loaded(ClassPipeline, path, dtype)
    pipeline.unet.requires_grad_(False).eval().to(device)
    return ClassModel(pipeline)


def _of_prompts(
    path: str, index: dict[str, Any], config: DenoisingConfig, dtype: torch.dtype, device: torch.device | str
) -> ImageModel:
    from diffusers import DiffusionPipeline

    missing = [name for name in OF_PROMPTS if not (index.get(name) or [None])[0]]
    if missing:
        raise ModelError(
            f"model.path: {path} is a {index['_class_name']} without {', '.join(missing)}; wanted is a pipeline of "
            f"{', '.join(OF_PROMPTS)}, as of LCM_Dreamshaper_v7 or SDXL; a {OF_CLASSES} that knows classes; or one that "
            "areal pretrain has made"
        )
    from .prompts import PromptModel

    none = {name: None for name in ("safety_checker", "image_encoder") if name in index}
    flags = {name: False for name in ("requires_safety_checker",) if name in index}
    pipeline = _loaded(DiffusionPipeline, path, dtype, **none, **flags)
    return PromptModel(pipeline.to(device), config)


def _loaded(kind: Any, path: str, dtype: torch.dtype, **components: Any) -> Any:
    try:
        return kind.from_pretrained(path, dtype=dtype, local_files_only=Path(path).is_dir(), **components)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"model.path: the pipeline at {path} cannot be loaded: {reason}") from error


def _hush() -> None:
    """Neither library's bars and advice belong into a role's log; what fails is raised."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for each in (of_diffusers, of_transformers):
        each.disable_progress_bar()
        each.set_verbosity_error()


def _refuse_for_classes(config: DenoisingConfig) -> None:
    """Raise ConfigError for what can be asked of models of prompts alone."""
    for key, value in (("image_size", config.image_size), ("consistency_lora", config.consistency_lora)):
        if value is not None:
            raise ConfigError(f"denoising.{key}: {value}, and a model of classes has none; leave it out")
    if config.guidance != 1.0:
        raise ConfigError(f"denoising.guidance: {config.guidance:g}, and a model of classes is told none; take 1")


def _index(path: str) -> dict[str, Any]:
    """What the pipeline's own file says that it is made of."""
    from diffusers import DiffusionPipeline

    if Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        raise ModelError(f"model.path: {path} has no model_index.json, so it is not a pipeline of diffusers")
    try:
        index, _ = DiffusionPipeline.load_config(path, return_unused_kwargs=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"model.path: {path} is no folder here, and no pipeline of the hub: {reason}"
            if not Path(path).is_dir()
            else f"model.path: {path}/model_index.json cannot be read: {reason}"
        ) from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ModelError(f"model.path: {path}/model_index.json does not say what the pipeline is (_class_name)")
    return index
