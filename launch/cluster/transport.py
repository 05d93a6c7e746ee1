"""How the weights of a run travel, where broker.weights leaves it open: through its directory, or else through Redis."""

from dataclasses import dataclass
from typing import Literal

from ...broker.client import Client
from ...broker.errors import BrokerError, ConfigError
from ..config import RunConfig
from ..models.size import ModelSize, size_of
from ..units import gib
from .nodes import survey

BYTES_PER_TOKEN = 8
WAYS = {
    "directory": "through the run's directory",
    "redis": "through Redis",
    "direct": "directly from the learner's memory into the engines'",
}
"""What broker.weights means, in words."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What broker.weights is for the roles, and why, in words."""

    weights: Literal["directory", "redis", "direct"]
    why: str


def choose_transport(config: RunConfig, url: str) -> Choice:
    """By what broker.weights says; or (never directly) by whether all nodes of the cluster see the run's directory, which is asked now.

    Raises ArealError where Ray cannot be reached to ask them.
    """
    said, address = config.broker.weights, config.cluster.address
    if said != "auto":
        return Choice(said, "as broker.weights says")
    if address is None:
        return Choice("directory", "the run is on one machine")
    nodes = survey(address, config.path, url)
    blind = [node.name or node.host for node in nodes if not node.sees]
    if not blind:
        return Choice("directory", f"all {len(nodes)} nodes see it")
    more = f" and {len(blind) - 3} more" if len(blind) > 3 else ""
    return Choice("redis", f"{', '.join(blind[:3])}{more} do not see the run's directory")


def told(choice: Choice) -> str:
    """The choice in a line."""
    return f"weights travel {WAYS[choice.weights]}: {choice.why}"


def require_room(client: Client, config: RunConfig, model_path: str) -> None:
    """Raise ConfigError where Redis is to carry the weights, and its maxmemory is too small for them."""
    size = size_of(model_path)
    try:
        memory = client.info("memory")
    except BrokerError:  # not every user may ask
        return
    most = int(memory.get("maxmemory", 0))
    if size is None or not most:
        return
    wanted = (config.broker.weights_kept + 1) * weights_bytes(config, size)
    if wanted > most:
        raise ConfigError(
            f"the weights are to travel through Redis, and {config.broker.weights_kept + 1} versions of them "
            f"(broker.weights_kept and one on its way) take {gib(wanted)}, more than its maxmemory of {gib(most)}: raise it, "
            f"train an adapter (model.lora), or have all nodes see {config.path} (broker.weights: directory)"
        )


def weights_bytes(config: RunConfig, size: ModelSize) -> int:
    """Of a version as it travels: what is trained, an adapter in float32."""
    width = 4 if config.model.lora is not None or config.model.dtype == "float32" else 2
    return width * size.trained(config.model.lora)


def bytes_in_redis(config: RunConfig, size: ModelSize | None) -> float:
    """What a run puts into Redis at most, about: the groups that wait or that no checkpoint covers, and perhaps weights.

    Those of images are left out, as the size of their latents is the model's to say.
    """
    learner, rollout = config.learner, config.rollout
    groups = (config.staleness.max + 1 + 2 * config.checkpoint.every_steps) * learner.groups_per_step
    answer = BYTES_PER_TOKEN * rollout.sampling.max_tokens if config.denoising is None else 0
    weights = 0
    if size is not None and config.broker.weights == "redis":
        weights = (config.broker.weights_kept + 1) * weights_bytes(config, size)
    return float(groups * rollout.group_size * answer + weights)
