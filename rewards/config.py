"""What can be said about rewards in a configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RewardConfig(BaseModel):
    """One reward function and its share in the sum."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="a bundled reward, an entry point of group areal.rewards, or ./file.py:function")
    weight: float = Field(1.0, description="factor of this reward in the sum")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments of the function")


class RewardsConfig(BaseModel):
    """The reward of a completion is the weighted sum of these functions, each run apart in a worker process."""

    model_config = ConfigDict(extra="forbid")

    functions: list[RewardConfig] = Field(min_length=1, description="the functions that are summed")
    workers: int = Field(1, ge=1, description="processes that compute rewards, for each rollout worker")
    timeout_s: float = Field(10.0, gt=0, description="a call that takes longer is killed with its process")
    retries: int = Field(1, ge=0, description="how often a failed call is tried again")
