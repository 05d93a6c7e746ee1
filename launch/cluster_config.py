"""What can be said about the cluster in a configuration: where roles run, with what, and how."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .fleet.autoscale import AutoscaleConfig
from .secret import SECRET

ADDRESS = re.compile(r"auto|(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):\d{1,5}")
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
THREADS = "OMP_NUM_THREADS"

Variable = Annotated[str, Field(pattern=VARIABLE)]
Count = Annotated[float, Field(gt=0)]


class RoleResources(BaseModel):
    """What Ray keeps free for a role. On a Ray that is started here only GPUs count."""

    model_config = ConfigDict(extra="forbid")

    cpus: float = Field(1.0, gt=0, description="CPU cores, as Ray counts them; `threads` says how many are used")
    gpus: float | None = Field(
        None, ge=0, description="GPUs, whole ones or a share of one; without it those of the cluster are dealt"
    )
    custom: dict[str, Count] = Field(
        default_factory=dict, description="resources that nodes were given names for, as in ray start --resources"
    )

    @field_validator("gpus")
    @classmethod
    def _are_rays(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus is {gpus:g}, and Ray gives whole ones or a share of one")
        return gpus


class ResourcesByRole(BaseModel):
    """For each rank of the learner, and for each rollout worker."""

    model_config = ConfigDict(extra="forbid")

    learner: RoleResources = Field(default_factory=RoleResources)
    rollout: RoleResources = Field(default_factory=RoleResources)


class EnvironmentByRole(BaseModel):
    """Variables of the environment of a role's process, and of what that starts."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    learner: dict[Variable, str] = Field(default_factory=dict)
    rollout: dict[Variable, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _may_be_written_down(self) -> "EnvironmentByRole":
        for role, variables in (("learner", self.learner), ("rollout", self.rollout)):
            for name in variables:
                if SECRET.search(name):
                    raise ValueError(
                        f"{role}.{name} would be written into the run directory, and by its name it is secret: set it in "
                        "the environment of areal, and name it in cluster.pass_env"
                    )
                if name == THREADS:
                    raise ValueError(f"{role}.{name} is what {role}.threads says: set that")
        return self


class ClusterConfig(BaseModel):
    """Where the roles run."""

    model_config = ConfigDict(extra="forbid")

    address: str | None = Field(
        None,
        description="a Ray cluster: auto (the one that this machine is a node of), its head as host:port (from a node of it), "
        "or ray://host:10001 (from anywhere); without it Ray is started here",
    )
    resources: ResourcesByRole = Field(default_factory=ResourcesByRole)
    affinity: Literal["any", "apart", "together"] = Field(
        "any", description="whether rollout workers are placed on other nodes than the learner (apart), or on the same"
    )
    strategy: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack",
        description="how the learner's ranks lie on nodes: on few, or on many; strict: on one, or each on its own",
    )
    grows: bool = Field(
        False, description="whether nodes join when they are wanted: what has no room yet is then waited for"
    )
    place_timeout_s: float = Field(180.0, gt=0, description="how long a role may wait for its place")
    ship: bool | list[str] = Field(
        True,
        description="whether the files that the configuration names (rewards, workflow, rows) go to the nodes, with the "
        "folders of those of Python; a list names what goes in place of these folders",
    )
    env: EnvironmentByRole = Field(default_factory=EnvironmentByRole)
    pass_env: list[Variable] = Field(
        default_factory=list, description="variables of this environment that roles get too, never written down"
    )
    max_restarts: int = Field(3, ge=0, description="how often in a row a role is started again before the run gives up")
    drain_s: float = Field(60.0, gt=0, description="how long roles may take to drain before they are killed")
    autoscale: AutoscaleConfig | None = Field(
        None,
        description="limits between which the number of rollout workers follows who waits for whom; without it, it stays "
        "as it is until `areal scale`",
    )
    on_driver_loss: Literal["stop", "restart"] = Field(
        "stop",
        description="when the driver is killed, all that it started ends with it: to resume by the same command (stop), or "
        "with `--detach` by itself, from the newest checkpoint, max_restarts times in a row (restart)",
    )
    log_level: Literal["info", "warning", "error", "none"] = Field(
        "warning", description="the level from which on what roles log is shown by the driver too"
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not ADDRESS.fullmatch(address):
            raise ValueError(f"address is {address!r}; known here: auto, host:port, ray://host:port, or null for none")
        return address

    @model_validator(mode="after")
    def _has_nodes(self) -> "ClusterConfig":
        if self.address is not None:
            return self
        if self.affinity == "apart":
            raise ValueError("affinity is apart, and without cluster.address there is one node")
        if self.strategy == "strict_spread":
            raise ValueError("strategy is strict_spread, and without cluster.address there is one node")
        return self
