"""How many rollout workers a run should have, by who waits for whom: generation and training in balance.

    the learner waits for groups, and no batch of them lies ready      more workers
    the workers wait for prompts, and one fewer could do it as well    one worker fewer
    anything between                                                   as it is

Between the two lies a band in which nothing is changed, wider than what one worker more or fewer can move: under a load that
stays the same, the number moves one way only and then stands still.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

GROW_AT = 0.2
"""The learner waits for more than this share of its time: there are too few workers."""

SPARE = 0.25
"""One worker fewer must leave so much of what the workers do now in reserve."""


class AutoscaleConfig(BaseModel):
    """How the number of rollout workers follows the balance of generation and training."""

    model_config = ConfigDict(extra="forbid")

    min: int = Field(1, ge=1, description="rollout workers that there are at least")
    max: int = Field(ge=1, description="rollout workers that there are at most")
    every_s: float = Field(
        30.0, gt=0, description="how long the balance is measured before the number is changed, and after that again"
    )

    @model_validator(mode="after")
    def _limits_are_limits(self) -> "AutoscaleConfig":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        return self


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured: shares of their time that the learner and the workers wait, and how many steps' groups lie ready."""

    learner_waits: float
    rollout_waits: float
    steps_ready: float


def decide(workers: int, load: Load, config: AutoscaleConfig) -> int:
    """How many workers there should be where there are so many now; always within the limits.

    It grows to what the learner's waiting asks for, at most to twice as many, and shrinks by one.
    """
    wanted = workers
    if GROW_AT < load.learner_waits <= 1 and load.steps_ready < 1:
        enough = workers / max(1 - load.learner_waits, 1e-9)
        wanted = min(math.floor(enough), 2 * workers)
        wanted = max(wanted, workers + 1)
    elif load.learner_waits < GROW_AT / 2 and workers > 1:
        needed = workers * (1 - load.rollout_waits)
        if needed * (1 + SPARE) < workers - 1:
            wanted = workers - 1
    return min(max(wanted, config.min), config.max)
