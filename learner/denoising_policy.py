"""A consistency model that learns: an adapter on it, and the Gaussian steps that it draws as actions.

Legend: M steps of a micro-batch, S images, D… the dimensions of a latent.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..broker.errors import ConfigError
from ..broker.trajectory import DenoisingTrajectory, Group
from ..denoising.adapter import Adapter
from ..denoising.config import DenoisingConfig
from ..denoising.gaussian import divergence, entropy, like, log_density
from ..denoising.models import load_image_model
from .algorithm.objective import ClosedForm
from .config import ModelConfig
from .policy import Scores
from .steps import StepBatch


class DenoisingPolicy:
    """The model of a pipeline of diffusers, which stays as it is, and an adapter on its network, which is trained.

    It stays in evaluation mode. The adapter begins by changing nothing; seed torch before.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: DenoisingConfig,
        device: torch.device | str = "cpu",
        *,
        with_reference: bool = False,
    ) -> None:
        """`with_reference` has a pass find the divergence from the model without its adapter, at a second evaluation."""
        if model.lora is None:
            raise ConfigError("model.lora is missing: of an image policy an adapter is trained, and no weights else")
        self._config = config
        self._device = torch.device(device)
        self._with_reference = with_reference
        self._model = load_image_model(model.path, config, dtype=getattr(torch, model.dtype), device=device)
        lora = model.lora
        self._adapter = Adapter(self._model.network, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
        self._levels = self._model.schedule.levels(config.steps)
        if model.gradient_checkpointing:
            _checkpoint(self._model.network)

    def scores(self, batch: StepBatch, temperature: float = 1.0) -> Scores:
        """What the policy says of each step; no temperature divides a density."""
        batch = batch.to(self._device)
        scale_M, std_M = self._model.schedule.target(batch.targets)
        mean_MD = self._mean(batch, scale_M)
        behaviour_MD = batch.drawn.float() - like(std_M, batch.noise) * batch.noise
        closed = ClosedForm(
            behaviour_kl_A=divergence(behaviour_MD, mean_MD.detach(), std_M),
            reference_kl_A=divergence(mean_MD, self._reference_mean(batch, scale_M), std_M)
            if self._with_reference
            else None,
            clip_scale_A=scale_M / std_M if self._config.clip_scale == "snr" else torch.ones_like(std_M),
        )
        dimensions = batch.drawn[0].numel()
        logprobs_M = log_density(batch.drawn.float(), mean_MD, std_M)
        if self._config.density == "mean":
            logprobs_M = logprobs_M / dimensions
        return Scores(logprobs_M, entropy(std_M, dimensions), closed=closed)

    def logprobs(self, batch: StepBatch, temperature: float = 1.0) -> Tensor:
        """float32[M], log π_θ of each step."""
        return self.scores(batch, temperature).logprobs_A

    def adapter_off(self) -> AbstractContextManager[Any]:
        """While it lasts, the policy is the model under the adapter."""
        return self._adapter.off()

    def parameters(self) -> Iterator[Parameter]:
        """Those of the adapter, in float32."""
        return iter(self._adapter.parameters())

    def require_row(self, row: dict[str, Any]) -> None:
        """Raises ConfigError for a row that tells the network nothing."""
        self._model.condition(row)

    def unfit(self, group: Group[Any]) -> str | None:
        """Why the group cannot be learned from; see Policy."""
        try:
            for trajectory in group.trajectories:
                self._require_fit(trajectory)
        except ConfigError as error:
            return f"prompt {group.prompt_id}: {error}"
        return None

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, by their names in PEFT: the parameters' own memory."""
        return self._adapter.weights()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` gave, into the parameters that the optimiser holds. Raises ModelError."""
        self._adapter.load(weights)

    def adapter_config(self) -> dict[str, Any]:
        """What stands in PEFT's adapter_config.json."""
        return self._adapter.config()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter as diffusers loads it, rank and alpha with it."""
        self._adapter.save(Path(folder))

    def _mean(self, batch: StepBatch, scale_M: Tensor) -> Tensor:
        """float32[M, D…], of what each step draws from."""
        clean_MD = self._model.denoise(batch.conditions)(batch.latents, batch.levels)
        return like(scale_M, clean_MD) * clean_MD

    @torch.no_grad()
    def _reference_mean(self, batch: StepBatch, scale_M: Tensor) -> Tensor:
        with self._adapter.off():
            return self._mean(batch, scale_M)

    def _require_fit(self, trajectory: Any) -> None:
        """Raises ConfigError for an image that this policy cannot have made."""
        if not isinstance(trajectory, DenoisingTrajectory):
            raise ConfigError("answered with tokens, and this policy learns from images")
        shape, levels, wanted = trajectory.latents.shape[1:], trajectory.timesteps.tolist(), self._levels
        if shape != tuple(self._model.latent_shape):
            raise ConfigError(f"latents of {list(shape)}, and those of the model are {list(self._model.latent_shape)}")
        if levels != wanted:
            raise ConfigError(f"made at the levels {levels}, and denoising.steps of {self._config.steps} are {wanted}")
        if trajectory.guidance != self._config.guidance:
            raise ConfigError(f"made under guidance {trajectory.guidance:g}, not {self._config.guidance:g}")
        self._model.condition(trajectory.condition)


def _checkpoint(network: Any) -> None:
    """Have each layer make its activations anew in the backward pass; raises ConfigError where a network cannot."""
    try:
        network.enable_gradient_checkpointing()  # as those of diffusers have it
    except ValueError as error:
        raise ConfigError(
            f"model.gradient_checkpointing is true, and a {type(network).__name__} cannot make its activations anew: "
            "set it to false"
        ) from error
