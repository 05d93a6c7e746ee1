"""Sends the tensors that a rank owns on their way, beside those of the learner that leads."""

from safetensors.torch import save_file
from torch import Tensor

from .behind import Behind
from .publisher import METADATA, WRITE_TIMEOUT_S, file_name, label
from .ranks import Ranks


class Contributor:
    """Writes what another rank than the leader owns of each version, in a thread of its own."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._behind = Behind("this rank's part of the weights", timeout_s=WRITE_TIMEOUT_S)

    def publish(self, version: int, weights: dict[str, Tensor]) -> None:
        """Begin to add tensors that nobody else changes to what the leader publishes; raises the error of the one before."""
        self.wait()
        self._behind.begin(self._contribute, version, weights)

    def wait(self) -> None:
        """Until the version under way is written; raises its error, or DeadlineExceeded."""
        self._behind.wait()

    def _contribute(self, version: int, weights: dict[str, Tensor]) -> None:
        assert self._ranks.company is not None
        file = file_name(self._ranks)
        self._ranks.company.shares.contribute(
            label(version), lambda folder: save_file(weights, folder / file, metadata=METADATA)
        )
