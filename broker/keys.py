"""The names of a run's keys in Redis, all under one hash tag so that scripts may touch several on a cluster."""

from dataclasses import dataclass

PREFIX = "areal:"
LANES = TRAIN, EVAL = "train", "eval"
"""The lanes of a run."""

CONSUMERS = "rollout"
"""The consumer group of every lane's prompts."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one run."""

    run: str

    def of(self, *parts: str) -> str:
        return ":".join([f"{PREFIX}{{{self.run}}}", *parts])

    @property
    def epoch(self) -> str:
        """The epoch of the learner that leads this run; only that one may write."""
        return self.of("epoch")

    @property
    def weights(self) -> str:
        """Stream of the published versions."""
        return self.of("weights")

    @property
    def weights_stored(self) -> str:
        """Set of the names of the weights that are in Redis, half of them or whole, announced or not."""
        return self.of("weights", "stored")

    def weights_of(self, name: str) -> str:
        """Hash of a folder of weights in chunks."""
        return self.of("weights", "of", name)

    @property
    def depot(self) -> str:
        """Where the learner that leads hands out weights that stay in its memory."""
        return self.of("weights", "depot")

    @property
    def records(self) -> str:
        """Stream of what the roles report."""
        return self.of("records")

    @property
    def order(self) -> str:
        """What the run has been told to do (run, drain)."""
        return self.of("order")

    def leave(self, worker: str) -> str:
        """What one worker has been told to do while the run goes on (leave, drain), for a while; not there for one that stays."""
        return self.of("leave", worker)

    @property
    def wish(self) -> str:
        """How many workers somebody wants."""
        return self.of("fleet", "wish")

    @property
    def fleet(self) -> str:
        """The workers that the driver has placed, and what has become of the last wish."""
        return self.of("fleet")

    @property
    def offer(self) -> str:
        """What a worker that joins from outside needs to know."""
        return self.of("offer")

    @property
    def driver(self) -> str:
        """Hash of what the run's driver says of itself."""
        return self.of("driver")

    @property
    def asked(self) -> str:
        """What a driver of this run is asked for, and which."""
        return self.of("asked")

    def meeting(self, epoch: int) -> str:
        """Where the ranks of that epoch's learner meet."""
        return self.of("meeting", str(epoch))

    @property
    def roll(self) -> str:
        """Hash of the roles at work, by name."""
        return self.of("roll")


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """Key names of one lane of a run."""

    run: str
    lane: str

    def of(self, *parts: str) -> str:
        return Keys(self.run).of(self.lane, *parts)

    @property
    def issued(self) -> str:
        """The position above all that were issued."""
        return self.of("issued")

    @property
    def prompts(self) -> str:
        """Stream of (id, body); its consumer group holds the leases."""
        return self.of("prompts")

    @property
    def groups(self) -> str:
        """Stream of (id, claim, size); the bytes lie at `body(claim)`."""
        return self.of("groups")

    @property
    def dead(self) -> str:
        """Stream of dead letters: the fields of what died, where it came from, and why."""
        return self.of("dead")

    @property
    def again(self) -> str:
        """Stream of dead letters that a person wants tried again, when there is room."""
        return self.of("again")

    @property
    def dropped(self) -> str:
        """Set of the positions whose dead letters a person has dropped."""
        return self.of("dropped")

    def body(self, claim: str) -> str:
        """The bytes of one group."""
        return self.of("body", claim)
