"""The critic: what a trajectory is still worth before each action.

Legend: A actions of a micro-batch.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .algorithm.config import CriticConfig
from .algorithm.value import ValueNormaliser, clipped_value_loss
from .config import ModelConfig
from .decoder import checkpoint_layers, compile_layers, hidden_states, layers_of, load_causal_lm, parts_of
from .optimizer import Optimizer
from .packed_lm import value_head_like, values_of
from .packing import PackedBatch
from .ranks import ALONE, Ranks
from .token_policy import TokenPolicy


class ValueScale:
    """The units that a critic learns in, and its loss in them: deviations of the return, or rewards."""

    def __init__(self, config: CriticConfig) -> None:
        self._config = config
        self._normaliser = ValueNormaliser()

    def in_rewards(self, values_A: Tensor) -> Tensor:
        """float32[A], values in units of the reward."""
        return self._normaliser.denormalise(values_A) if self._config.normalise else values_A

    def targets(self, returns_A: Tensor, keep_A: Tensor) -> Tensor:
        """float32[A], what is to be learned of these returns; the scale of those that `keep_A` keeps counts from now on."""
        if not self._config.normalise:
            return returns_A
        self._normaliser.update(returns_A[keep_A])
        return self._normaliser.normalise(returns_A)

    def loss(
        self, values_A: Tensor, old_values_A: Tensor, targets_A: Tensor, weight_A: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a micro-batch, and the sums of it and of the values that were clipped."""
        device = values_A.device
        loss, num_clipped = clipped_value_loss(
            values_A,
            old_values_A.to(device),
            targets_A.to(device),
            clip=self._config.clip,
            weights_A=weight_A.to(device, torch.float32),
        )
        return loss, {"value_loss": float(loss.detach()), "num_values_clipped": float(num_clipped)}

    def state(self) -> dict[str, float]:
        """What is known of the returns' mean and deviation."""
        return self._normaliser.state()

    def load(self, state: dict[str, float]) -> None:
        """Take over what `state` gave."""
        self._normaliser.load(state)


class Critic(Protocol):
    """What values actions, and learns from returns. It begins by saying the mean."""

    scale: ValueScale

    def values(self, batch: Any, temperature: float) -> Tensor:
        """float32[A], V before each action of a PackedBatch, in deviations of the return, with gradient."""
        ...

    def update(self, step: int) -> None:
        """The optimiser's step. Raises TrainingError if the gradient is not finite."""
        ...

    def discard(self) -> None:
        """Forget the gradients gathered."""
        ...

    def before_update(self, call: Callable[[], None]) -> None:
        """Have something called each time before anything that `state` gives is changed."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it, by name: the critic's own tensors, to be read or filled."""
        ...


class ValueModel(nn.Module):
    """A decoder with a value head in place of its own."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        causal_lm = load_causal_lm(model.path, model.dtype).eval()
        if model.gradient_checkpointing:
            checkpoint_layers(causal_lm, model.path)
        self.decoder, head = parts_of(causal_lm, model.path)
        self.head = value_head_like(head, model.path)

    def forward(self, batch: PackedBatch) -> Tensor:
        """float32[A], a number before each action."""
        hidden_ND = hidden_states(self.decoder, batch.tokens, batch.positions, batch.cu_lengths)
        return values_of(self.head, hidden_ND[batch.predict_index])


class OwnCritic:
    """A value model and its optimiser."""

    def __init__(
        self,
        config: CriticConfig,
        model: ModelConfig,
        *,
        total_steps: int,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        self.scale = ValueScale(config)
        self._device = torch.device(device)
        self._module = ValueModel(model)
        if ranks.count == 1:
            self._module.to(self._device)
        if model.compile:
            compile_layers(self._module.decoder)
        ranks.shard(self._module, [*layers_of(self._module.decoder), self._module.head])
        self._optimizer = Optimizer(self._module.parameters(), config.optimizer, total_steps=total_steps)

    def values(self, batch: PackedBatch, temperature: float = 1.0) -> Tensor:
        """float32[A], V before each action, in deviations of the return, with gradient."""
        values_A: Tensor = self._module(batch.to(self._device))
        return values_A

    def update(self, step: int) -> None:
        """The optimiser's step. Raises TrainingError if the gradient is not finite."""
        self._optimizer.step(step)

    def discard(self) -> None:
        """Forget the gradients gathered."""
        self._optimizer.discard()

    def before_update(self, call: Callable[[], None]) -> None:
        """Have something called each time before anything that `state` gives is changed."""
        self._optimizer.before_update(call)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name: the critic's own tensors, to be read or filled."""
        groups = {"weights": self._module.state_dict(), "optimizer": self._optimizer.state()}
        return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


class SharedCritic:
    """The value head of a policy, whose optimiser updates it too."""

    def __init__(self, config: CriticConfig, policy: TokenPolicy) -> None:
        self.scale = ValueScale(config)
        self._policy = policy

    def values(self, batch: PackedBatch, temperature: float) -> Tensor:
        """float32[A], V before each action, in deviations of the return, with gradient."""
        values_A = self._policy.scores(batch, temperature).values_A
        assert values_A is not None
        return values_A

    def update(self, step: int) -> None:
        """Nothing: the policy's update is its own."""

    def discard(self) -> None:
        """Nothing, likewise."""

    def before_update(self, call: Callable[[], None]) -> None:
        """Nothing, likewise."""

    def state(self) -> dict[str, Tensor]:
        """The head's weights by name; its moments are among the policy's."""
        return self._policy.value_head()
