"""Models of images of prompts: a pipeline of text encoders, a UNet and a VAE, whichever of diffusers' families it is of.

    prompt ─encoders─▶ embeddings ─┐ (each prompt once)
                 noise ─▶ latents ─┴─UNet─▶ … ─▶ latents ─VAE─▶ image

What the UNet is told is read off its configuration: a guidance embedding where it has one (LCM_Dreamshaper_v7, Luo et al.,
arXiv 2310.04378), pooled embeddings and sizes where it adds them to the time (SDXL). Nothing is guided by a second
evaluation, no safety checker is run, and no watermark is set.

Legend: M latents, D… the dimensions of one, L tokens of a prompt, W the width of their embeddings, P of the pooled one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from ..broker.errors import ConfigError, EngineError, ModelError
from .config import DenoisingConfig
from .sampler import Denoise
from .schedule import Schedule, schedule_of

LORA_NAME = "lcm"
MAX_EMBEDDINGS = 2000
"""That are kept, of the prompts used last."""
DECODED_PIXELS = 2**20
"""That the VAE makes at once, so that its memory is that of one large image, or of a few small ones."""


class PromptModel:
    """A pipeline of prompts as it is sampled and trained.

    network: what is trained.
    schedule: the levels that it knows.
    latent_shape: of a latent, [C, H, W].
    """

    def __init__(self, pipeline: Any, config: DenoisingConfig) -> None:
        """Freezes the pipeline, and puts the consistency LoRA on it.

        Raises ModelError for what is no consistency model of prompts, and ConfigError for settings that it cannot follow.
        """
        _check_network(pipeline)
        if config.consistency_lora is not None:
            _make_consistent(pipeline, config.consistency_lora)
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval()
        self._pipeline = pipeline
        self.network: nn.Module = pipeline.unet
        self.schedule: Schedule = schedule_of(pipeline.scheduler)
        self._told_sizes = pipeline.unet.config.addition_embed_type == "text_time"
        self._guidance = _guidance_embedding(pipeline, config.guidance)
        self._size = _image_size(pipeline, config.image_size)
        self.latent_shape: tuple[int, ...] = (
            pipeline.unet.config.in_channels,
            *(pixels // pipeline.vae_scale_factor for pixels in self._size),
        )
        self._embedding = lru_cache(MAX_EMBEDDINGS)(self._embed)
        # the pipelines that tell no sizes decode in float16 whatever the VAE says: it says true unless it is asked
        if self._told_sizes and pipeline.vae.config.force_upcast and pipeline.vae.dtype == torch.float16:
            pipeline.vae.float()

    def condition(self, row: dict[str, Any]) -> dict[str, Any]:
        """What an image is made from: the row's `prompt`, or what its last message says. Raises ConfigError."""
        prompt = row.get("prompt")
        if prompt is None and row.get("messages"):
            prompt = row["messages"][-1]["content"]
        if not isinstance(prompt, str):
            raise ConfigError(
                f"a row has the prompt {prompt!r:.100}, and images are made from text: give each row a `prompt`, or "
                "`messages` of which the last has one (dataset.source)"
            )
        return {"prompt": prompt}

    def denoise(self, conditions: Sequence[dict[str, Any]]) -> Denoise:
        """f(x, τ) under these conditions, one for each latent."""
        told = self._told([condition["prompt"] for condition in conditions])

        def denoised(x_MD: Tensor, level_M: Tensor) -> Tensor:
            inputs_MD, time_M = self.schedule.network_input(x_MD.float(), level_M)
            (output_MD,) = self.network(inputs_MD.to(self._dtype), time_M, **told, return_dict=False)
            return self.schedule.clean(output_MD, x_MD, level_M)

        return denoised

    def decode(self, clean_MD: Tensor) -> list[Image.Image]:
        """The images, 8 bits a channel. Raises EngineError for those that are no numbers."""
        at_once = max(1, DECODED_PIXELS // (self._size[0] * self._size[1]))
        return [image for some_MD in clean_MD.split(at_once) for image in self._decoded(some_MD)]

    @torch.no_grad()
    def _decoded(self, clean_MD: Tensor) -> list[Image.Image]:
        vae: Any = self._pipeline.vae
        latents_MD = _unscaled(clean_MD.to(vae.device), vae.config).to(vae.dtype)
        pixels_MD = vae.decode(latents_MD, return_dict=False)[0]
        if not pixels_MD.isfinite().all():
            raise EngineError(
                f"the VAE made pixels that are not finite in {vae.dtype}: try model.dtype=bfloat16 or float32"
            )
        images: list[Image.Image] = self._pipeline.image_processor.postprocess(pixels_MD, output_type="pil")
        return images

    @property
    def _dtype(self) -> torch.dtype:
        """Of the network without adapters, which may be of another."""
        dtype: torch.dtype = self._pipeline.unet.conv_in.weight.dtype
        return dtype

    def _told(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What the UNet is told of these prompts beside latents and time."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        place_M = torch.tensor([places[prompt] for prompt in prompts])
        tokens, pooled = zip(*(self._embedding(prompt) for prompt in places), strict=True)
        told: dict[str, Any] = {"encoder_hidden_states": self._moved(torch.stack(tokens)[place_M])}
        if self._guidance is not None:
            told["timestep_cond"] = self._moved(self._guidance).expand(len(prompts), -1)
        if self._told_sizes:
            sizes = self._moved(torch.tensor([*self._size, 0, 0, *self._size])).expand(len(prompts), -1)
            told["added_cond_kwargs"] = {"text_embeds": self._moved(torch.stack(pooled)[place_M]), "time_ids": sizes}
        return told

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(next(self.network.parameters()).device, self._dtype)

    @torch.no_grad()
    def _embed(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """[L, W] and [P], in the machine's own memory: thousands of them would fill the device's.

        Each prompt by itself: in company it would come out a little different, and so would the policy.
        """
        encoded = self._pipeline.encode_prompt(
            prompt=prompt,
            device=self._pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return encoded[0][0].cpu(), encoded[2][0].cpu() if self._told_sizes else None


def _check_network(pipeline: Any) -> None:
    """Raise ModelError for a network that is not told of prompts, or is told of more."""
    unet: Any = pipeline.unet
    if not isinstance(unet, UNet2DConditionModel) or not any(
        name.endswith("attn2") for name, _ in unet.named_modules()
    ):
        raise ModelError(
            f"the pipeline's network is a {type(unet).__name__} without cross attention, so that no prompt reaches it: "
            "wanted is a UNet2DConditionModel with it (model.path)"
        )
    if unet.config.addition_embed_type not in (None, "text_time"):
        raise ModelError(
            f"the network is told of {unet.config.addition_embed_type!r} (addition_embed_type), and only prompts "
            "(null) and sizes (text_time) can be told (model.path)"
        )
    channels = (unet.config.in_channels, unet.config.out_channels, pipeline.vae.config.latent_channels)
    if len(set(channels)) > 1:
        raise ModelError(
            f"the network takes {channels[0]} channels and gives {channels[1]}, and the VAE's latents have {channels[2]}: "
            "a model of images from prompts alone has as many of each (model.path)"
        )


def _make_consistent(pipeline: Any, path: str) -> None:
    """Put on the LoRA that makes a consistency model of a diffusion model, with the scheduler that it needs."""
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    try:
        pipeline.load_lora_weights(path, adapter_name=LORA_NAME)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"denoising.consistency_lora: {path} is no LoRA for this network: {reason}") from error
    if LORA_NAME not in getattr(pipeline.unet, "peft_config", {}):
        raise ModelError(f"denoising.consistency_lora: {path} has nothing for the network in it")


def _guidance_embedding(pipeline: Any, guidance: float) -> Tensor | None:
    """float32[1, E] of w = guidance − 1, for a network that is told it."""
    dimensions = pipeline.unet.config.time_cond_proj_dim
    if dimensions is not None:
        embedding: Tensor = pipeline.get_guidance_scale_embedding(torch.tensor([guidance - 1.0]), dimensions)
        return embedding
    if guidance != 1.0:
        raise ConfigError(
            f"denoising.guidance: {guidance:g}, and the network has no guidance embedding (time_cond_proj_dim is null); "
            "guidance without one takes two evaluations a step, which is not done: take 1"
        )
    return None


def _image_size(pipeline: Any, asked: int | None) -> tuple[int, int]:
    """Height and width in pixels, as asked or as the model has it."""
    factor: int = pipeline.vae_scale_factor
    if asked is not None:
        if asked % factor:
            raise ConfigError(
                f"denoising.image_size: {asked}, and this model makes images of a multiple of {factor} pixels: "
                f"take {max(1, round(asked / factor)) * factor}"
            )
        return asked, asked
    own = pipeline.unet.config.sample_size
    if own is None:
        raise ConfigError("denoising.image_size: the model has no size of its own (sample_size is null); give one")
    height, width = (own, own) if isinstance(own, int) else own
    return height * factor, width * factor


def _unscaled(clean_MD: Tensor, config: Any) -> Tensor:
    """Latents as the VAE has them, of such as the network has."""
    latents_MD: Tensor = clean_MD / config.scaling_factor
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        mean_D, std_D = (torch.tensor(each, device=clean_MD.device).reshape(-1, 1, 1) for each in (mean, std))
        latents_MD = latents_MD * std_D + mean_D
    shift: float = config.get("shift_factor") or 0.0
    return latents_MD + shift
