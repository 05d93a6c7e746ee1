"""What a learner is made of, whichever of its ranks it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..broker.config import BrokerConfig
from .best import BestWeights
from .checkpoint import CheckpointStore
from .config import CheckpointConfig, EvaluationConfig
from .feeder import Flow
from .pupil import Training


@dataclass(frozen=True, kw_only=True)
class LearnerSettings(Training):
    """All ranks have the same. `group_size` and `temperature` are the rollout's, which it must share."""

    run: str
    directory: Path
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    broker: BrokerConfig
    group_size: int

    @property
    def leader_publishes(self) -> bool:
        """Whether all weights go through the rank that leads: an adapter is one file, and only a directory has many ways."""
        return self.learner.ranks == 1 or self.model.lora is not None or self.broker.weights in ("redis", "direct")

    def flow(self, epoch: int) -> Flow:
        """What bounds the prompts that a learner of that epoch issues."""
        return Flow(
            max_outstanding=(self.staleness.max + 1) * self.learner.groups_per_step,
            max_dead_letters=self.broker.max_dead_letters,
            group_size=self.group_size,
            epoch=epoch,
        )

    def checkpoints(self, group: Any = None) -> CheckpointStore:
        """The run's checkpoints; where there are several ranks, they save as this group of torch.distributed."""
        kept = self.checkpoint
        return CheckpointStore(
            self.directory / "checkpoints", keep=kept.keep, archive_every=kept.archive_every_steps, group=group
        )

    def best(self, store: CheckpointStore, *, epoch: int, permit: Callable[[], None]) -> BestWeights:
        """The weights of the best evaluations, which go into the same directory."""
        return BestWeights(store, self.directory / "checkpoints", keep=self.checkpoint.best, epoch=epoch, permit=permit)
