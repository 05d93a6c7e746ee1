"""The names of a run's keys in Redis, all under one hash tag so that scripts may touch several on a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one run."""

    run: str

    def of(self, *parts: str) -> str:
        return ":".join([f"areal:{{{self.run}}}", *parts])

    @property
    def epoch(self) -> str:
        """Counts the learners that have led this run; only the last may write."""
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
    def records(self) -> str:
        """Stream of what the roles report."""
        return self.of("records")

    @property
    def order(self) -> str:
        """What the run has been told to do (run, drain)."""
        return self.of("order")
