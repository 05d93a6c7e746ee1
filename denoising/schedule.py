"""The levels of noise at which a consistency model is evaluated, and what its steps draw.

    x at level τ ─network─▶ f(x, τ) ≈ x₀ ─ a·f + s·z ─▶ x' at level τ'

Two kinds of diffusers schedulers fit this, and differ in a and s of the level that a step leads to:

    LCMScheduler                    a = √ᾱ(τ')   s = √(1 − ᾱ(τ'))         variance preserving (Luo et al., arXiv 2310.04378)
    CMStochasticIterativeScheduler  a = 1        s = √(σ(τ')² − σ_min²)   variance exploding (Song et al., arXiv 2303.01469)

Legend: N levels, M steps of one image or of many, D… the dimensions of a latent.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..broker.errors import ModelError
from .gaussian import like

LCM_SIGMA_DATA = 0.5
TIME_SCALE = 250.0
"""Of log σ, as the networks of consistency models are given it."""


class Schedule(Protocol):
    """What one kind of scheduler says of each level; a level is an integer, as it travels with a trajectory."""

    initial_std: float

    def levels(self, count: int) -> list[int]:
        """The levels of an image made in `count` evaluations, the noisiest first. Raises ModelError if there are not so many."""

    def target(self, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s), float32[M] each, of steps that lead to these levels."""

    def network_input(self, x_MD: Tensor, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """The latents and the times that the network is given."""

    def clean(self, output_MD: Tensor, x_MD: Tensor, level_M: Tensor) -> Tensor:
        """float32[M, D…], f(x, τ) of what the network said of x."""


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule of a pipeline's scheduler; raises ModelError for one that has none of a consistency model."""
    name = type(scheduler).__name__
    if name == "LCMScheduler":
        return LcmSchedule(scheduler)
    if name == "CMStochasticIterativeScheduler":
        return KarrasSchedule(scheduler)
    raise ModelError(
        f"the pipeline's scheduler is a {name}, and a consistency model is sampled by LCMScheduler or "
        "CMStochasticIterativeScheduler: is it one? A model with a consistency LoRA needs its scheduler set to LCMScheduler"
    )


class LcmSchedule:
    """Of latent consistency models. A level is a time step of the diffusion that the model was distilled from."""

    initial_std = 1.0

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        if config.thresholding:
            raise ModelError(
                "the scheduler thresholds by quantiles of each image (thresholding), which no policy can do"
            )
        self._scheduler = scheduler
        self._alphas_N: Tensor = scheduler.alphas_cumprod.float()
        self._prediction = config.prediction_type
        self._time_scaling = config.timestep_scaling
        self._clip = config.clip_sample_range if config.clip_sample else None
        if self._prediction not in ("epsilon", "sample", "v_prediction"):
            raise ModelError(
                f"the scheduler's prediction_type is {self._prediction!r}, not epsilon, sample or v_prediction"
            )

    def levels(self, count: int) -> list[int]:
        """See Schedule."""
        try:
            self._scheduler.set_timesteps(count)
        except ValueError as error:
            raise ModelError(f"an image cannot be made in {count} steps: {error}") from error
        found: list[int] = self._scheduler.timesteps.tolist()
        return found

    def target(self, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """See Schedule."""
        alpha_M = self._alpha(level_M)
        return alpha_M.sqrt(), (1 - alpha_M).sqrt()

    def network_input(self, x_MD: Tensor, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """See Schedule."""
        return x_MD, level_M

    def clean(self, output_MD: Tensor, x_MD: Tensor, level_M: Tensor) -> Tensor:
        """See Schedule."""
        output_MD, x_MD = output_MD.float(), x_MD.float()
        estimate_MD = self._estimate(output_MD, x_MD, self._alpha(level_M))
        if self._clip is not None:
            estimate_MD = estimate_MD.clamp(-self._clip, self._clip)
        time_M = level_M * self._time_scaling
        skip_M = LCM_SIGMA_DATA**2 / (time_M**2 + LCM_SIGMA_DATA**2)
        out_M = time_M / (time_M**2 + LCM_SIGMA_DATA**2) ** 0.5
        return like(out_M, x_MD) * estimate_MD + like(skip_M, x_MD) * x_MD

    def _estimate(self, output_MD: Tensor, x_MD: Tensor, alpha_M: Tensor) -> Tensor:
        """x₀ as the network's output has it."""
        if self._prediction == "sample":
            return output_MD
        signal, noise = like(alpha_M.sqrt(), x_MD), like((1 - alpha_M).sqrt(), x_MD)
        if self._prediction == "epsilon":
            return (x_MD - noise * output_MD) / signal
        return signal * x_MD - noise * output_MD

    def _alpha(self, level_M: Tensor) -> Tensor:
        return _at(self._alphas_N, level_M)


class KarrasSchedule:
    """Of consistency models in pixels. A level is a place in the scheduler's σ, of which there are num_train_timesteps."""

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        self._num_levels = config.num_train_timesteps
        self._sigma_min, self._sigma_data = config.sigma_min, config.sigma_data
        self._clip, self._noise_scale = config.clip_denoised, config.s_noise
        sigmas_N = _karras(config)
        self._sigmas_N = torch.from_numpy(sigmas_N).float()
        self._times_N = torch.from_numpy(TIME_SCALE * np.log(sigmas_N)).float()
        self.initial_std = float(config.sigma_max)

    def levels(self, count: int) -> list[int]:
        """See Schedule."""
        most = max(1, self._num_levels - 1)
        if not 1 <= count <= most:
            raise ModelError(
                f"an image cannot be made in {count} steps: 1 to {most} are possible, as the scheduler has "
                f"{self._num_levels} levels, and a step to the last, σ_min, would draw no noise (denoising.steps)"
            )
        return [place * (self._num_levels // count) for place in range(count)]

    def target(self, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """See Schedule."""
        sigma_M = self._sigma(level_M)
        return torch.ones_like(sigma_M), self._noise_scale * (sigma_M**2 - self._sigma_min**2) ** 0.5

    def network_input(self, x_MD: Tensor, level_M: Tensor) -> tuple[Tensor, Tensor]:
        """See Schedule."""
        sigma_M = self._sigma(level_M)
        scaled_MD = x_MD / like((sigma_M**2 + self._sigma_data**2) ** 0.5, x_MD).to(x_MD.dtype)
        return scaled_MD, _at(self._times_N, level_M)

    def clean(self, output_MD: Tensor, x_MD: Tensor, level_M: Tensor) -> Tensor:
        """See Schedule."""
        output_MD, x_MD = output_MD.float(), x_MD.float()
        sigma_M, data, least = self._sigma(level_M), self._sigma_data, self._sigma_min
        skip_M = data**2 / ((sigma_M - least) ** 2 + data**2)
        out_M = (sigma_M - least) * data / (sigma_M**2 + data**2) ** 0.5
        clean_MD: Tensor = like(out_M, x_MD) * output_MD + like(skip_M, x_MD) * x_MD
        return clean_MD.clamp(-1, 1) if self._clip else clean_MD

    def _sigma(self, level_M: Tensor) -> Tensor:
        return _at(self._sigmas_N, level_M)


def _karras(config: Any) -> NDArray[np.float64]:
    """float64[N], σ falling from σ_max to σ_min, evenly in σ^(1/ρ) (Karras et al., arXiv 2206.00364, equation 5)."""
    ramp_N = np.arange(config.num_train_timesteps) / max(1, config.num_train_timesteps - 1)
    most, least = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    sigmas_N: NDArray[np.float64] = (most + ramp_N * (least - most)) ** config.rho
    return sigmas_N


def _at(values_N: Tensor, level_M: Tensor) -> Tensor:
    """The values at these levels, on their device."""
    return values_N.to(level_M.device)[level_M.long()]
