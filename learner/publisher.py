"""Sends each version of the weights on its way while the next step is computed."""

import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..broker.errors import DeadlineExceeded
from ..broker.weights import Published, WeightStore

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 600.0


class Publisher:
    """Writes one version at a time, in a thread of its own."""

    def __init__(self, store: WeightStore, adapter_config: dict[str, Any] | None, *, epoch: int) -> None:
        self._store = store
        self._adapter_config = adapter_config
        self._epoch = epoch
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._pending: Future[Published] | None = None
        self._last: Published | None = None

    def publish(self, version: int, weights: dict[str, Tensor]) -> float:
        """Begin to publish tensors that nobody else changes; returns the seconds spent waiting for the version before.

        Raises what went wrong with that one.
        """
        began = time.perf_counter()
        self.wait()
        waited_s = time.perf_counter() - began
        self._pending = self._writer.submit(
            self._store.publish, version, lambda folder: self._write(folder, weights), epoch=self._epoch
        )
        return waited_s

    def wait(self) -> None:
        """Until the version under way is announced; raises its error, or DeadlineExceeded."""
        if self._pending is not None:
            try:
                self._last = self._pending.result(WRITE_TIMEOUT_S)
            except TimeoutError as error:
                raise DeadlineExceeded(f"weights were not written within {WRITE_TIMEOUT_S:g} s") from error
            self._pending = None

    def ensure(self) -> None:
        """See that the version published last is still announced, and begin to announce it again if it is not.

        A Redis that was killed comes back a second older, and workers would wait for a version that it has forgotten.
        Call it while waiting for them: it costs one look at Redis. Raises what went wrong with that version.
        """
        if self._pending is not None and not self._pending.done():
            return
        self.wait()
        if self._last is not None and self._store.is_lost(self._last):
            logger.warning("version %d is no longer announced; announcing it again", self._last.version)
            self._pending = self._writer.submit(self._store.restore, self._last, epoch=self._epoch)

    def _write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        if self._adapter_config is None:
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            return
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(self._adapter_config))
