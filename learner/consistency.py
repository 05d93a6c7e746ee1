"""A consistency model from nothing: improved consistency training, which needs no diffusion model to begin with.

    x₀, z ─▶ x_t, x_r (the same noise, t > r) ─▶ f_θ(x_t, t) is drawn to f_θ(x_r, r), which is held still

After Song & Dhariwal (arXiv 2310.14189: lognormal noise, pseudo-Huber, no EMA of the target, 1/Δσ) with the schedule of
Geng et al. (arXiv 2406.14548), under which r comes closer to t from stage to stage. Stages are counted in steps, so that
the same seed makes the same model however slow the machine is.

Legend: N images there are, M of a step, D… the pixels of one, L levels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..denoising.gaussian import like
from ..denoising.schedule import Schedule

CLOSENESS, STEEPNESS = 8.0, 1.0
"""k and b of n(σ) = 1 + k·sigmoid(−b·σ): where there is little noise, r is as much closer to t."""


@dataclass(frozen=True, slots=True)
class ConsistencyTraining:
    """How a consistency model is trained. `huber` is the c of √(‖d‖² + c²) − c; `noise_*` are those of log σ."""

    steps: int = 2000
    batch_size: int = 256
    lr: float = 1e-3
    stages: int = 6
    noise_mean: float = -0.4
    noise_std: float = 1.8
    huber: float = 0.06
    ema: float = 0.998


class Pairs:
    """Draws the two levels that a step compares."""

    def __init__(self, schedule: Schedule, num_levels: int, training: ConsistencyTraining) -> None:
        scale_L, std_L = schedule.target(torch.arange(num_levels))
        self._sigma_L = std_L / scale_L
        self._training = training

    def draw(self, count: int, stage: int) -> tuple[Tensor, Tensor, Tensor]:
        """(t, r, 1/(σ_t − σ_r)), int64[M], int64[M] and float32[M], with r < t; `stage` counts from 0."""
        training, sigma_L = self._training, self._sigma_L
        drawn_M = torch.exp(training.noise_mean + training.noise_std * torch.randn(count))
        upper_M = torch.searchsorted(sigma_L, drawn_M).clamp(1, len(sigma_L) - 1)
        sigma_M = sigma_L[upper_M]
        closer_M = (1 + CLOSENESS * torch.sigmoid(-STEEPNESS * sigma_M)) / 2 ** (stage + 1)
        lower_M = torch.searchsorted(sigma_L, sigma_M * (1 - closer_M).clamp_min(0))
        lower_M = torch.minimum(lower_M, upper_M - 1)
        return upper_M, lower_M, 1 / (sigma_M - sigma_L[lower_M])


def train(
    network: nn.Module,
    schedule: Schedule,
    images_ND: Tensor,
    labels_N: Tensor,
    training: ConsistencyTraining,
    *,
    num_levels: int,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> None:
    """Train on images in [−1, 1]; leaves the average of the weights in the network. Seed torch before.

    `report` gets {step, steps, loss, stage} some twenty times.
    """
    pairs = Pairs(schedule, num_levels, training)
    optimizer = torch.optim.RAdam(network.parameters(), lr=training.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(training.ema)
    )
    for step in range(training.steps):
        stage = training.stages * step // training.steps
        chosen_M = torch.randint(len(images_ND), (training.batch_size,))
        loss = _loss(network, schedule, images_ND[chosen_M], labels_N[chosen_M], pairs, stage, training.huber)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        average.update_parameters(network)
        if (step + 1) % max(1, training.steps // 20) == 0:
            report({"step": step + 1, "steps": training.steps, "loss": float(loss.detach()), "stage": stage + 1})
    network.load_state_dict(average.module.state_dict())


def _loss(
    network: nn.Module,
    schedule: Schedule,
    clean_MD: Tensor,
    labels_M: Tensor,
    pairs: Pairs,
    stage: int,
    huber: float,
) -> Tensor:
    upper_M, lower_M, weight_M = pairs.draw(len(clean_MD), stage)
    noise_MD = torch.randn_like(clean_MD)
    student_MD = consistency(network, schedule, _noised(schedule, clean_MD, noise_MD, upper_M), upper_M, labels_M)
    with torch.no_grad():
        lower_MD = _noised(schedule, clean_MD, noise_MD, lower_M)
        teacher_MD = consistency(network, schedule, lower_MD, lower_M, labels_M)
    squares_M = (student_MD - teacher_MD).flatten(1).square().sum(1)
    return (weight_M * ((squares_M + huber**2).sqrt() - huber)).mean()


def consistency(network: nn.Module, schedule: Schedule, x_MD: Tensor, level_M: Tensor, labels_M: Tensor) -> Tensor:
    """float32[M, D…], f(x, τ) of a network of classes."""
    inputs_MD, time_M = schedule.network_input(x_MD, level_M)
    (output_MD,) = network(inputs_MD, time_M, class_labels=labels_M, return_dict=False)
    return schedule.clean(output_MD, x_MD, level_M)


def _noised(schedule: Schedule, clean_MD: Tensor, noise_MD: Tensor, level_M: Tensor) -> Tensor:
    scale_M, std_M = schedule.target(level_M)
    return like(scale_M, clean_MD) * clean_MD + like(std_M, clean_MD) * noise_MD
