"""AdamW with a schedule: the optimiser step, its clipping and its state."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from ..broker.errors import TrainingError
from .config import OptimizerConfig
from .ranks import whole

MASTER = "master"


class Optimizer:
    """AdamW over a policy's parameters. `total_steps` is what the schedule decays over.

    Where a parameter has 16 bits, its gradients are summed up and its updates made in float32, on a master copy that it
    is rounded from: a small update is lost on 16 bits, and so is a small gradient among those of many micro-batches.
    """

    def __init__(self, parameters: Iterable[Parameter], config: OptimizerConfig, *, total_steps: int) -> None:
        self._parameters = list(parameters)
        self._masters = [_master_of(parameter) for parameter in self._parameters]
        self._config = config
        self._total_steps = total_steps
        self._adamw = torch.optim.AdamW(
            self._masters,
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
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._masters, self._config.max_grad_norm)))
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
        self._round()
        self.discard()
        return rate

    def discard(self) -> None:
        """Forget the gradients gathered."""
        self._adamw.zero_grad()

    def before_update(self, call: Callable[[], None]) -> None:
        """Have something called each time before anything that `state` gives is changed."""
        self._adamw.register_step_pre_hook(lambda *_: call())

    def state(self) -> dict[str, Tensor]:
        """The moments and the master copies, named by the parameter's place: `3.exp_avg`, `3.master`.

        They are the optimiser's own, to be read or filled; before the first step the moments are zeros.
        """
        self._make_moments()
        moments = {
            f"{place}.{name}": value
            for place, master in enumerate(self._masters)
            for name, value in self._adamw.state[master].items()
        }
        return moments | {f"{place}.{MASTER}": master.detach() for place, master in self._copies()}

    def _make_moments(self) -> None:
        """As AdamW makes them at a parameter's first step."""
        for master in self._masters:
            if not self._adamw.state[master]:
                self._adamw.state[master] = {
                    "step": torch.zeros((), dtype=torch.float32, device=master.device),
                    "exp_avg": torch.zeros_like(master, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(master, memory_format=torch.preserve_format),
                }

    def _copies(self) -> list[tuple[int, Tensor]]:
        """The masters that are copies, by place."""
        pairs = enumerate(zip(self._parameters, self._masters, strict=True))
        return [(place, master) for place, (parameter, master) in pairs if master is not parameter]

    @torch.no_grad()
    def _round(self) -> None:
        for place, master in self._copies():
            self._parameters[place].copy_(master)


def _master_of(parameter: Parameter) -> Tensor:
    """The parameter itself, or of one of 16 bits a copy in float32 that its gradients go to as they come."""
    if parameter.dtype == torch.float32:
        return parameter
    master = parameter.detach().float().requires_grad_()

    def hand_over(source: Tensor) -> None:
        assert source.grad is not None
        gradient, source.grad = source.grad.float(), None
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    parameter.register_post_accumulate_grad_hook(hand_over)
    return master


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
