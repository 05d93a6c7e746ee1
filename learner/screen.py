"""Which groups teach nothing."""

from .algorithm.config import ShapingConfig
from .batch import Batch
from .estimate import shaped_rewards


def constant_groups(batch: Batch, shaping: ShapingConfig) -> list[bool]:
    """Of each group, whether all its rewards are equal as they are learned from, so that it says nothing of what is better.

    That is shaped, and before any KL term.
    """
    sizes = [len(group.trajectories) for group in batch.groups]
    return [bool(reward_G.min() == reward_G.max()) for reward_G in shaped_rewards(batch, shaping).split(sizes)]
