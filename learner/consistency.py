"""A consistency model from nothing: improved consistency training, which needs no diffusion model to begin with.

    x₀, z ─▶ x_t, x_r (the same noise, t > r) ─▶ f_θ(x_t, t) is drawn to f_θ(x_r, r), which is held still

After Song & Dhariwal (arXiv 2310.14189: lognormal noise, pseudo-Huber, no EMA of the target, 1/Δσ) with the schedule of
Geng et al. (arXiv 2406.14548), under which r comes closer to t from stage to stage. Stages are counted in steps, so that
the same seed makes the same model however slow the machine is.

Legend: N images there are, M of a step, D… the pixels of one, L levels.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from ..broker.errors import ConfigError
from ..denoising.classes import ClassModel, ClassPipeline, consistency
from ..denoising.gaussian import like
from ..denoising.mlp import ConsistencyMlp
from ..denoising.noise import Noise
from ..denoising.sampler import sample
from ..denoising.schedule import Schedule
from .config import ConsistencyConfig
from .judge import Judge, Verdict
from .pictures import load_pictures

EXAMINED_STEPS = (1, 2, 4, 8)
EXAMINED = 1000
"""Pictures made to judge by, of each class as many."""

CLOSENESS, STEEPNESS = 8.0, 1.0
"""k and b of n(σ) = 1 + k·sigmoid(−b·σ): where there is little noise, r is as much closer to t."""


def make(config: ConsistencyConfig, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Trains a model, writes it to `config.output` as diffusers has it, and returns what it is.

    `report` gets how training goes, and what the judge says of pictures made in so many evaluations. The same
    configuration gives the same bytes. Raises ConfigError.
    """
    torch.set_num_threads(config.threads)
    learned, held_out = load_pictures(config.data, config.image_size, key="consistency.data").split()
    _make_folder(config)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ConsistencyMlp(
            sample_size=config.image_size,
            in_channels=learned.images.shape[1],
            num_class_embeds=len(learned.classes),
            width=config.width,
            depth=config.depth,
        )
        pipeline = ClassPipeline(network, LCMScheduler(prediction_type="v_prediction"), config.decoded_size)
        model, num_levels = ClassModel(pipeline), pipeline.scheduler.config.num_train_timesteps
        train(
            network,
            model.schedule,
            images_ND=learned.images,
            labels_N=learned.labels,
            config=config,
            num_levels=num_levels,
            report=report,
        )
    network.type(getattr(torch, config.dtype))
    pipeline.save_pretrained(config.output)
    network.float()
    wall_s = time.perf_counter() - began
    judge = Judge(learned, held_out)
    report({"evaluations": "none (real)"} | _of(judge.of_real()))
    for count in EXAMINED_STEPS:
        report({"evaluations": count} | _of(examine(model, judge, count, num_classes=len(learned.classes))))
    parameters = sum(weight.numel() for weight in network.parameters())
    return {"output": str(config.output), "parameters": parameters, "wall_s": wall_s}


def examine(model: ClassModel, judge: Judge, count: int, *, num_classes: int) -> Verdict:
    """What the judge says of pictures of all classes, made in `count` evaluations."""
    labels = torch.arange(EXAMINED) % num_classes
    conditions = [{"label": int(label)} for label in labels]
    noise = Noise(range(EXAMINED), model.latent_shape)
    return judge.of(
        sample(model.denoise(conditions), model.schedule, model.schedule.levels(count), noise).clean, labels
    )


def _of(verdict: Verdict) -> dict[str, Any]:
    return {"accuracy": verdict.accuracy, "frechet": verdict.frechet, "diversity": verdict.diversity}


def _make_folder(config: ConsistencyConfig) -> None:
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"consistency.output: the folder {config.output} cannot be made: {error}") from error


class Pairs:
    """Draws the two levels that a step compares."""

    def __init__(self, schedule: Schedule, num_levels: int, config: ConsistencyConfig) -> None:
        scale_L, std_L = schedule.target(torch.arange(num_levels))
        self._sigma_L = std_L / scale_L
        self._config = config

    def draw(self, count: int, stage: int) -> tuple[Tensor, Tensor, Tensor]:
        """(t, r, 1/(σ_t − σ_r)), int64[M], int64[M] and float32[M], with r < t; `stage` counts from 0."""
        config, sigma_L = self._config, self._sigma_L
        drawn_M = torch.exp(config.noise_mean + config.noise_std * torch.randn(count))
        upper_M = torch.searchsorted(sigma_L, drawn_M).clamp(1, len(sigma_L) - 1)
        sigma_M = sigma_L[upper_M]
        closer_M = (1 + CLOSENESS * torch.sigmoid(-STEEPNESS * sigma_M)) / 2 ** (stage + 1)
        lower_M = torch.searchsorted(sigma_L, sigma_M * (1 - closer_M).clamp_min(0))
        lower_M = torch.minimum(lower_M, upper_M - 1)
        return upper_M, lower_M, 1 / (sigma_M - sigma_L[lower_M])


def train(
    network: nn.Module,
    schedule: Schedule,
    *,
    images_ND: Tensor,
    labels_N: Tensor,
    config: ConsistencyConfig,
    num_levels: int,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> None:
    """Train on images in [−1, 1]; leaves the average of the weights in the network. Seed torch before.

    `report` gets {step, steps, loss, stage} some twenty times.
    """
    pairs = Pairs(schedule, num_levels, config)
    optimizer = torch.optim.RAdam(network.parameters(), lr=config.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)
    )
    for step in range(config.steps):
        stage = config.stages * step // config.steps
        chosen_M = torch.randint(len(images_ND), (config.batch_size,))
        loss = _loss(
            network,
            schedule,
            clean_MD=images_ND[chosen_M],
            labels_M=labels_N[chosen_M],
            pair=pairs.draw(config.batch_size, stage),
            huber=config.huber,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        average.update_parameters(network)
        if (step + 1) % max(1, config.steps // 20) == 0:
            report({"step": step + 1, "steps": config.steps, "loss": float(loss.detach()), "stage": stage + 1})
    network.load_state_dict(average.module.state_dict())


def _loss(
    network: nn.Module,
    schedule: Schedule,
    *,
    clean_MD: Tensor,
    labels_M: Tensor,
    pair: tuple[Tensor, Tensor, Tensor],
    huber: float,
) -> Tensor:
    upper_M, lower_M, weight_M = pair
    noise_MD = torch.randn_like(clean_MD)
    student_MD = consistency(network, schedule, _noised(schedule, clean_MD, noise_MD, upper_M), upper_M, labels_M)
    with torch.no_grad():
        lower_MD = _noised(schedule, clean_MD, noise_MD, lower_M)
        teacher_MD = consistency(network, schedule, lower_MD, lower_M, labels_M)
    squares_M = (student_MD - teacher_MD).flatten(1).square().sum(1)
    return (weight_M * ((squares_M + huber**2).sqrt() - huber)).mean()


def _noised(schedule: Schedule, clean_MD: Tensor, noise_MD: Tensor, level_M: Tensor) -> Tensor:
    scale_M, std_M = schedule.target(level_M)
    return like(scale_M, clean_MD) * clean_MD + like(std_M, clean_MD) * noise_MD
