"""What comes in for a step: the groups that it is taken on, and those that are passed over because they teach nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..broker.lane import Delivery
from .batch import Batch
from .measure import RewardTally
from .pupil import Training
from .screen import constant_groups
from .source import GroupSource

MANY_CONSTANT = (
    "group after group has equal rewards, and teaches nothing; this step takes what comes (filters.max_replaced). "
    "Are the problems too hard or too easy, or is the reward always the same?"
)


@dataclass(frozen=True, slots=True)
class Intake:
    """The groups of a step, and the rewards of all that came in for it, those passed over too."""

    deliveries: list[Delivery] = field(default_factory=list)
    rewards: RewardTally = field(default_factory=RewardTally)


def gather(
    source: GroupSource,
    training: Training,
    *,
    idle: Callable[[], bool],
    pass_over: Callable[[list[Delivery]], None],
    warn: Callable[[str], None],
) -> Intake:
    """The groups of a step; none if `idle`, called while waiting for them, says to stop.

    Where groups that teach nothing are replaced, they are handed to `pass_over`, and others are waited for; but no more
    than so many: a policy that always earns the same would be waited for in vain.
    """
    learner, filters = training.learner, training.algorithm.filters
    room = filters.max_replaced * learner.groups_per_step if filters.constant == "replace" else 0
    intake = Intake()
    while len(intake.deliveries) < learner.groups_per_step:
        missing = learner.groups_per_step - len(intake.deliveries)
        taken = source.take(missing, timeout_s=learner.take_timeout_s, idle=idle)
        if not taken:
            return Intake()
        intake.rewards.add([each.group for each in taken])
        constant = _constant(taken, training)[:room] if room else []
        intake.deliveries.extend(each for place, each in enumerate(taken) if place not in constant)
        if constant:
            pass_over([taken[place] for place in constant])
            room -= len(constant)
            if not room:
                warn(MANY_CONSTANT)
    return intake


def _constant(taken: list[Delivery], training: Training) -> list[int]:
    """The places of those that teach nothing."""
    batch = Batch.of([each.group for each in taken])
    return [place for place, flat in enumerate(constant_groups(batch, training.algorithm.shaping)) if flat]
