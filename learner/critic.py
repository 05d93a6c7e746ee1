"""The critic: what a trajectory is still worth before each action.

Legend: N tokens and A actions of a micro-batch, D the width of the model.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..broker.errors import ModelError
from .algorithm.config import CriticConfig
from .algorithm.value import ValueNormaliser, clipped_value_loss
from .config import ModelConfig
from .decoder import hidden_states, layers_of, load_causal_lm, parts_of
from .optimizer import Optimizer
from .packing import PackedBatch
from .ranks import ALONE, Ranks


class ValueModel(nn.Module):
    """A decoder with a value head in place of its own, which begins by saying 0."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.decoder, head = parts_of(load_causal_lm(model.path, model.dtype).eval(), model.path)
        if not isinstance(head, nn.Linear):
            raise ModelError(
                f"{model.path}: its output head is a {type(head).__name__}, no linear layer to take a critic from"
            )
        self.head = nn.Linear(head.in_features, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: PackedBatch) -> Tensor:
        """float32[A], a number before each action."""
        hidden_ND = hidden_states(self.decoder, batch.tokens, batch.positions, batch.cu_lengths)
        values_A: Tensor = self.head(hidden_ND[batch.predict_index].float()).squeeze(1)
        return values_A.clone()  # FSDP2 hooks no views


class Critic:
    """A value model, its optimiser and the scale of what it learns. It begins by saying the mean."""

    def __init__(
        self,
        config: CriticConfig,
        model: ModelConfig,
        *,
        total_steps: int,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        self._config = config
        self._device = torch.device(device)
        self._module = ValueModel(model)
        if ranks.count == 1:
            self._module.to(self._device)
        ranks.shard(self._module, layers_of(self._module.decoder))
        self._normaliser = ValueNormaliser()
        self._optimizer = Optimizer(self._module.parameters(), config.optimizer, total_steps=total_steps)

    def values(self, batch: PackedBatch) -> Tensor:
        """float32[A], V before each action, in deviations of the return, with gradient."""
        values_A: Tensor = self._module(batch.to(self._device))
        return values_A

    def in_rewards(self, values_A: Tensor) -> Tensor:
        """float32[A], values in units of the reward."""
        return self._normaliser.denormalise(values_A) if self._config.normalise else values_A

    def targets(self, returns_A: Tensor, keep_A: Tensor) -> Tensor:
        """float32[A], what is to be learned of these returns; the scale of those that `keep_A` keeps counts from now on."""
        if not self._config.normalise:
            return returns_A
        self._normaliser.update(returns_A[keep_A])
        return self._normaliser.normalise(returns_A)

    def learn(self, batch: PackedBatch, old_values_A: Tensor, targets_A: Tensor, weight_A: Tensor) -> dict[str, float]:
        """Forward and backward on a micro-batch; returns the sums of the loss and of the values that were clipped."""
        loss, num_clipped = clipped_value_loss(
            self.values(batch),
            old_values_A.to(self._device),
            targets_A.to(self._device),
            clip=self._config.clip,
            weights_A=weight_A.to(self._device, torch.float32),
        )
        loss.backward()
        return {"value_loss": float(loss.detach()), "num_values_clipped": float(num_clipped)}

    def update(self, step: int) -> float:
        """The optimiser's step; returns the gradient's norm. Raises TrainingError if that is not finite."""
        return self._optimizer.step(step)[0]

    def discard(self) -> None:
        """Forget the gradients gathered."""
        self._optimizer.discard()

    @property
    def scale(self) -> dict[str, float]:
        """What is known of the returns' mean and deviation."""
        return self._normaliser.state()

    @scale.setter
    def scale(self, scale: dict[str, float]) -> None:
        self._normaliser.load(scale)

    def before_update(self, call: Callable[[], None]) -> None:
        """Have something called each time before anything that `state` gives is changed."""
        self._optimizer.before_update(call)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name: the critic's own tensors, to be read or filled."""
        groups = {"weights": self._module.state_dict(), "optimizer": self._optimizer.state()}
        return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
