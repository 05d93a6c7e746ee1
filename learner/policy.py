"""What the learner asks of a policy, whether its actions are tokens or denoising steps.

Legend: A actions of a micro-batch.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter

from ..broker.trajectory import Group
from .algorithm.objective import ClosedForm


class Scores(NamedTuple):
    """What a pass says of each action.

    logprobs_A: float32[A], log π_θ(action) at the temperature, with gradient.
    entropies_A: float32[A], of the distribution that the action was drawn from, without.
    values_A: float32[A], V before each action, with gradient; None without a value head.
    closed: what is known besides of actions that Gaussians drew; None for tokens.
    """

    logprobs_A: Tensor
    entropies_A: Tensor
    values_A: Tensor | None = None
    closed: ClosedForm | None = None


class Scorer(Protocol):
    """What knows the probability of actions. Its micro-batches are those of its policy: PackedBatch or StepBatch."""

    def logprobs(self, batch: Any, temperature: float) -> Tensor:
        """float32[A], log π of each action, with gradient."""
        ...


class Policy(Scorer, Protocol):
    """What the learner trains."""

    def scores(self, batch: Any, temperature: float) -> Scores:
        """What is known of each action, its log-probability first."""
        ...

    def parameters(self) -> Iterator[Parameter]:
        """What the optimiser changes."""
        ...

    def unfit(self, group: Group[Any]) -> str | None:
        """Why the group cannot be learned from; None if it can be.

        What holds for every policy (finite numbers, an action, arrays that fit) was checked when it was decoded.
        """
        ...

    def require_row(self, row: dict[str, Any]) -> None:
        """Raises ConfigError for a row of the data set that the policy cannot answer."""
        ...

    def adapter_off(self) -> AbstractContextManager[Any]:
        """While it lasts, the policy is the model under its adapter. Raises ModelError where there is none."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What is trained, by the names of a checkpoint: the parameters' own memory."""
        ...

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` gave, into the parameters that the optimiser holds. Raises ModelError."""
        ...

    def adapter_config(self) -> dict[str, Any] | None:
        """What stands in PEFT's adapter_config.json; None without LoRA."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what was trained as its library reads it; of several ranks, the leader does."""
        ...
