"""How a run stands: what its newest driver has said, whether that is still there, and how far it is."""

from dataclasses import dataclass, replace
from pathlib import Path

from ...broker.client import Client
from ...broker.helm import STARTING, Driving, Helm
from ..records.rundir import METRICS, newest_record
from ..records.tally import numbers
from .look import Look, heard_on, how_it_stands, look_into

GONE = "gone"


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest step that was taken, of all, its mean reward and its mean staleness in versions; None what is not known."""

    look: Look
    step: int | None = None
    steps: int | None = None
    reward: float | None = None
    staleness: float | None = None

    @property
    def driving(self) -> Driving | None:
        """What the driver says, if it is not that of one in whose place there is another."""
        return None if self.look.displaced else self.look.driving

    @property
    def state(self) -> str | None:
        """As the driver has it while it is there; GONE where it ended without a word, STARTING where the next one has begun.

        None where no driver has said anything.
        """
        if self.look.displaced:
            return STARTING
        if self.look.gone:
            return GONE
        return None if self.driving is None else self.driving.state

    @property
    def note(self) -> str:
        """What a person should know of how it ended."""
        told = self.look.gone or self.look.displaced or (self.driving is not None and self.driving.error)
        return how_it_stands(self.look) if told else ""


def standing_in(directory: Path) -> Standing:
    """That of a run directory's run."""
    standing = Standing(look_into(directory))
    step = newest_record(directory / METRICS, "step")
    if step is None:
        return standing
    reward, staleness = (next(iter(numbers([step], key)), None) for key in ("reward_mean", "staleness_mean"))
    return replace(standing, step=step["step"], steps=step["steps"], reward=reward, staleness=staleness)


def standing_on(client: Client, key: str) -> Standing:
    """That of a run on a Redis, by what its driver last said there. Raises BrokerUnavailable."""
    look = heard_on(Helm(client, key))
    driving = look.driving
    if driving is None:
        return Standing(look)
    return Standing(look, driving.step, driving.steps, driving.reward, driving.staleness)
