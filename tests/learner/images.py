"""A small image policy, and groups of images that it or another has made."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler

from areal.broker.trajectory import DenoisingTrajectory, Group
from areal.denoising.classes import ClassPipeline
from areal.denoising.config import DenoisingConfig
from areal.denoising.mlp import ConsistencyMlp
from areal.denoising.noise import Noise
from areal.denoising.sampler import sample
from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.denoising_policy import DenoisingPolicy
from areal.learner.steps import StepBatch, flatten

LORA = LoraConfig(rank=4, alpha=8)
STEPS = 4


def save_tiny_pipeline(folder: Path) -> Path:
    """A network of ten classes, whose outputs are moved off zero."""
    torch.manual_seed(0)
    network = ConsistencyMlp(width=32, depth=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ClassPipeline(network, LCMScheduler(prediction_type="v_prediction"), 32).save_pretrained(folder)
    return folder


def made(folder: Path, *, seed: int = 0, with_reference: bool = False, **options: Any) -> DenoisingPolicy:
    """A policy whose adapter begins as the seed says."""
    torch.manual_seed(seed)
    model = ModelConfig(path=str(folder), lora=LORA)
    return DenoisingPolicy(model, DenoisingConfig(steps=STEPS, **options), with_reference=with_reference)


def moved(policy: DenoisingPolicy, by: float = 0.1, seed: int = 5) -> DenoisingPolicy:
    """The policy, its adapter no longer that which changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return policy


def group(
    policy: DenoisingPolicy, *, prompt_id: int = 0, size: int = 4, version: int = 0, wire: str = "float32"
) -> Group[Any]:
    """Images of class `prompt_id`, each paid for what is dark in it."""
    model = policy._model
    conditions = [{"label": prompt_id % 10}] * size
    seeds = [1000 * prompt_id + member for member in range(size)]
    noise, levels = Noise(seeds, model.latent_shape), model.schedule.levels(STEPS)
    chain = sample(model.denoise(conditions), model.schedule, levels, noise, wire=getattr(torch, wire))
    return Group(
        prompt_id,
        tuple(
            DenoisingTrajectory(
                latents=chain.latents[:, member].numpy(),
                timesteps=np.array(chain.levels, np.int32),
                behaviour_logprobs=chain.logprobs[:, member].numpy(),
                version=version,
                condition=conditions[member],
                guidance=1.0,
                seed=seeds[member],
                reward=-float(chain.clean[member].mean()),
            )
            for member in range(size)
        ),
        "w",
    )


def flat(answered: Group[Any]) -> StepBatch:
    """All the steps of a group."""
    return flatten(answered.trajectories, [range(t.num_actions) for t in answered.trajectories])
