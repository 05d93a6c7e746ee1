"""What can be said about the broker in a configuration."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from .address import without_secrets


class BrokerConfig(BaseModel):
    """Where Redis is and how long the parties wait for each other."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(
        None,
        description="a running server, as redis://host:6379/0, rediss://… (TLS), unix://… or redis+sentinel://…, its user "
        "and password in it or in the environment (AREAL_REDIS_USERNAME, AREAL_REDIS_PASSWORD); "
        "without it the run starts one of its own",
    )
    lease_s: float = Field(5.0, gt=0, description="a worker silent for so long loses the prompts it holds")
    max_attempts: int = Field(3, ge=1, description="after so many failed tries a prompt becomes a dead letter")
    max_dead_letters: int = Field(1000, ge=0, description="with more of them than that, the run ends on an error")
    timeout_s: float = Field(30.0, gt=0, description="how long Redis may fail to answer before the caller gives up")
    weights: Literal["auto", "directory", "redis", "direct"] = Field(
        "auto",
        description="how weights travel: in the run's directory, which all roles must see, or through Redis, whose "
        "memory then holds weights_kept + 1 versions (adapters, small models), or directly from the learner's memory into "
        "the engines', by NCCL between GPUs, else by TCP (no adapters; not yet run on a GPU); auto takes the directory where the run is "
        "on one machine, or all nodes of its cluster are seen to see it when it starts, and Redis elsewhere",
    )
    weights_kept: int = Field(3, ge=2, description="versions of the weights kept for workers that lag")

    @field_serializer("url", when_used="json-unless-none")
    def _without_secrets(self, url: str) -> str:
        """What is written down of the configuration shows no user and no password."""
        return without_secrets(url)
