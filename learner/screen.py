"""Which groups cannot be learned from, and which teach nothing."""

from typing import Any

from ..broker.trajectory import Group, TokenTrajectory
from .algorithm.config import ShapingConfig
from .batch import Batch
from .estimate import shaped_rewards


def unfit(group: Group[Any], vocab_size: int) -> str | None:
    """Why the group cannot be learned from; None if it can be.

    What holds for every policy (finite numbers, an action, tokens and masks that fit) was checked when it was decoded.
    """
    if not isinstance(group.trajectories[0], TokenTrajectory):
        return f"prompt {group.prompt_id} was answered with images, and this policy learns from tokens"
    largest = max(int(trajectory.tokens.max()) for trajectory in group.trajectories)
    if largest >= vocab_size:
        return f"prompt {group.prompt_id} has token {largest}, the vocabulary only {vocab_size} of them"
    return None


def constant_groups(batch: Batch, shaping: ShapingConfig) -> list[bool]:
    """Of each group, whether all its rewards are equal as they are learned from, so that it says nothing of what is better.

    That is shaped, and before any KL term.
    """
    sizes = [len(group.trajectories) for group in batch.groups]
    return [bool(reward_G.min() == reward_G.max()) for reward_G in shaped_rewards(batch, shaping).split(sizes)]
