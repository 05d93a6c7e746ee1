"""What can be said about the broker in a configuration."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class BrokerConfig(BaseModel):
    """Where Redis is and how long the parties wait for each other."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(None, description="redis://… of a running server; without it the run starts one of its own")
    lease_s: float = Field(5.0, gt=0, description="a worker silent for so long loses the prompts it holds")
    max_attempts: int = Field(3, ge=1, description="after so many failed tries a prompt becomes a dead letter")
    timeout_s: float = Field(30.0, gt=0, description="how long Redis may fail to answer before the caller gives up")
    weights: Literal["directory", "redis"] = Field(
        "directory",
        description="how weights travel: in the run's directory, which all roles must see, or through Redis, whose "
        "memory then holds weights_kept + 1 versions (adapters, small models)",
    )
    weights_kept: int = Field(3, ge=2, description="versions of the weights kept for workers that lag")
