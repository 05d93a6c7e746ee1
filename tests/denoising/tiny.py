"""Pipelines of prompts in a few thousand numbers each, drawn at random: of an LCM, of SDXL, and a LoRA for the latter."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH = 16
MAX_TOKENS = 12
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIXELS = 16


def latent_consistency_pipeline(**unet: Any) -> LatentConsistencyModelPipeline:
    """One encoder, and a network that is told its guidance, as LCM_Dreamshaper_v7."""
    torch.manual_seed(0)
    pipeline = LatentConsistencyModelPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(),
        unet=_unet(**({"cross_attention_dim": WIDTH, "time_cond_proj_dim": 32} | unet)),
        scheduler=LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _quiet(pipeline)


def xl_pipeline(scheduler: Any = None) -> StableDiffusionXLPipeline:
    """Two encoders, and a network that is told sizes."""
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 6 * 8,
        ),
        scheduler=scheduler
        or EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )
    return _quiet(pipeline)


def save_consistency_lora(pipeline: Any, folder: Path) -> None:
    """One for this pipeline's network, as diffusers saves it; the pipeline keeps it on."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_out.0", "conv1"], init_lora_weights=False
    )
    pipeline.unet.add_adapter(config, adapter_name="made")
    pipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet, adapter_name="made"),
        unet_lora_adapter_metadata=config.to_dict(),
    )


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _tokenizer() -> CLIPTokenizer:
    symbols = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ca", "cat</w>"]
    return CLIPTokenizer(
        vocab={symbol: place for place, symbol in enumerate(symbols)},
        merges=[("c", "a"), ("ca", "t</w>")],
        model_max_length=MAX_TOKENS,
    )


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=PIXELS,
        **options,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    defaults = {
        "sample_size": PIXELS // 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(defaults | options))
