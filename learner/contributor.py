"""Sends the tensors that a rank owns on their way, beside those of the learner that leads."""

from concurrent.futures import Future, ThreadPoolExecutor

from safetensors.torch import save_file
from torch import Tensor

from ..broker.errors import DeadlineExceeded
from .publisher import METADATA, WRITE_TIMEOUT_S, file_name, label
from .ranks import Ranks


class Contributor:
    """Writes what another rank than the leader owns of each version, in a thread of its own."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="contributor")
        self._pending: Future[None] | None = None

    def publish(self, version: int, weights: dict[str, Tensor]) -> None:
        """Begin to add tensors that nobody else changes to what the leader publishes; raises the error of the one before."""
        self.wait()
        self._pending = self._writer.submit(self._contribute, version, weights)

    def wait(self) -> None:
        """Until the version under way is written; raises its error, or DeadlineExceeded."""
        if self._pending is not None:
            try:
                self._pending.result(WRITE_TIMEOUT_S)
            except TimeoutError as error:
                raise DeadlineExceeded(f"this rank's weights were not written within {WRITE_TIMEOUT_S:g} s") from error
            self._pending = None

    def _contribute(self, version: int, weights: dict[str, Tensor]) -> None:
        assert self._ranks.company is not None
        file = file_name(self._ranks)
        self._ranks.company.shares.contribute(
            label(version), lambda folder: save_file(weights, folder / file, metadata=METADATA)
        )
