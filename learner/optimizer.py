"""AdamW with a schedule: the optimiser step, its clipping and its state."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from ..broker.errors import TrainingError
from .config import OptimizerConfig


class Optimizer:
    """AdamW over a policy's parameters. `total_steps` is what the schedule decays over."""

    def __init__(self, parameters: Iterable[Parameter], config: OptimizerConfig, *, total_steps: int) -> None:
        self._parameters = list(parameters)
        self._config = config
        self._total_steps = total_steps
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, step: int) -> tuple[float, float]:
        """`clip`, then `apply`; (gradient norm, rate)."""
        return self.clip(step), self.apply(step)

    def clip(self, step: int) -> float:
        """Shorten the gradients gathered; returns their norm. Raises TrainingError if that is not finite."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm))
        if not math.isfinite(norm):
            self.discard()
            raise TrainingError(f"the gradient's norm is {norm} at step {step}; this update is not made")
        return norm

    def apply(self, step: int) -> float:
        """Update by the gradients gathered, at the rate of `step` (from 0), and clear them; returns the rate."""
        rate = learning_rate(self._config, step, self._total_steps)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self.discard()
        return rate

    def discard(self) -> None:
        """Forget the gradients gathered."""
        self._adamw.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The moments, named by the parameter's place: `3.exp_avg`."""
        state = self._adamw.state_dict()["state"]
        return {f"{place}.{name}": value for place, entry in state.items() for name, value in entry.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, name = key.split(".")
            state.setdefault(int(place), {})[name] = value
        self._adamw.load_state_dict({"state": state, "param_groups": self._adamw.state_dict()["param_groups"]})


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of a step (from 0): a linear warm-up, then constant, or falling to 0 at `total_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * max(0.0, 1.0 - progress)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.lr
