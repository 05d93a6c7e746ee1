"""What can be said about rewards in a configuration."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class RewardConfig(BaseModel):
    """One reward function and its share in the sum."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="a bundled reward, an entry point of group areal.rewards, or ./file.py:function")
    weight: float = Field(1.0, description="factor of this reward in the sum")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments of the function")
    sources: list[str] = Field(
        default_factory=list,
        description="of a mixture, the parts (by their column `source`) whose rows it rewards; all where none are named",
    )


class ResourcesConfig(BaseModel):
    """What Ray keeps free for a reward process."""

    model_config = ConfigDict(extra="forbid")

    cpus: float = Field(1.0, ge=0, description="CPU cores, as Ray counts them")
    gpus: float = Field(0.0, ge=0, description="GPUs; 0.5 shares one among two processes")
    custom: dict[str, float] = Field(default_factory=dict, description="resources that nodes were given names for")

    @property
    def told(self) -> str:
        """In words, for a message."""
        named = {"CPUs": self.cpus, "GPUs": self.gpus, **self.custom}
        return ", ".join(f"{count:g} {name}" for name, count in named.items() if count)


class RewardsConfig(BaseModel):
    """The reward of a completion is the weighted sum of these functions, each run apart in a worker process."""

    model_config = ConfigDict(extra="forbid")

    functions: list[RewardConfig] = Field(min_length=1, description="the functions that are summed")
    workers: int = Field(1, ge=1, description="processes that compute rewards, for each rollout worker")
    where: Literal["local", "ray"] = Field(
        "local", description="beside the rollout worker; or wherever Ray has the `resources` for each process"
    )
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    timeout_s: float = Field(
        10.0,
        gt=0,
        description="a call (of a function of lists: of all of a group) that takes longer is killed with its process",
    )
    start_timeout_s: float = Field(
        300.0,
        gt=0,
        description="a process that is not ready by then, with the models that its functions load, is given up",
    )
    memory_mib: int | None = Field(
        8192, ge=64, description="a process that takes more, with what it starts, is killed like one that is too slow"
    )
    retries: int = Field(1, ge=0, description="how often a failed call is tried again")

    @model_validator(mode="after")
    def _resources_are_rays(self) -> "RewardsConfig":
        if self.where == "local" and self.resources != ResourcesConfig():
            raise ValueError("resources are what Ray places by: set rewards.where to ray, or leave them out")
        return self
