"""What a run's roles have Ray place besides themselves: the processes of rewards, where Ray is to place those."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import RunConfig
from .fit import GPU


@dataclass(frozen=True, slots=True)
class Beside:
    """What these take of the cluster."""

    cpus: float = 0.0
    gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        """The same by Ray's names."""
        return {"CPU": self.cpus, GPU: self.gpus, **self.custom}

    def times(self, count: int) -> "Beside":
        """So often the same."""
        return Beside(self.cpus * count, self.gpus * count, {name: count * each for name, each in self.custom.items()})


NOTHING = Beside()


def beside_each(config: RunConfig) -> Beside:
    """What one worker has placed."""
    rewards, wanted = config.rewards, config.rewards.resources
    if rewards.where != "ray":
        return NOTHING
    return Beside(wanted.cpus, wanted.gpus, wanted.custom).times(rewards.workers)


def beside_all(config: RunConfig) -> Beside:
    """What all workers have placed that there may come to be."""
    return beside_each(config).times(most_workers(config))


def most_workers(config: RunConfig) -> int:
    """How many of them there may come to be."""
    autoscale = config.cluster.autoscale
    return max(config.rollout.workers, autoscale.max if autoscale else 0)
