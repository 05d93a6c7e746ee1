"""Sends each version of the weights on its way while the next step is computed."""

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..broker.weights import Published, WeightStore
from .behind import Behind
from .ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 600.0
METADATA = {"format": "pt"}


class Publisher:
    """Publishes one version at a time, in a thread of its own.

    Where `shared`, the other ranks add the tensors that they own to the folder that is announced (Contributor). Where
    `direct`, there is no folder: the store takes the tensors themselves.
    """

    def __init__(
        self,
        store: WeightStore,
        adapter_config: dict[str, Any] | None,
        *,
        epoch: int,
        ranks: Ranks = ALONE,
        shared: bool = False,
        direct: bool = False,
    ) -> None:
        self._store = store
        self._adapter_config = adapter_config
        self._epoch = epoch
        self._ranks = ranks
        self._shared = shared
        self._direct = direct
        self._behind = Behind("a version of the weights", timeout_s=WRITE_TIMEOUT_S)
        self._last: Published | None = None

    def publish(self, version: int, weights: dict[str, Tensor]) -> None:
        """Begin to publish tensors that nobody else changes; waits for the version before, and raises its error."""
        self.wait()
        if self._shared:
            self._ranks.tell("publish", version=version)
        self._behind.begin(self._announce, version, weights)

    def wait(self) -> None:
        """Until the version under way is announced; raises its error, or DeadlineExceeded."""
        self._behind.wait()

    def ensure(self) -> None:
        """See that the version published last is still announced, and begin to announce it again if it is not.

        A Redis that was killed comes back a second older, and workers would wait for a version that it has forgotten.
        Call it while waiting for them: it costs one look at Redis. Raises what went wrong with that version.
        """
        if not self._behind.idle:
            return
        self._behind.check()
        if self._last is not None and self._store.is_lost(self._last):
            logger.warning("version %d is no longer announced; announcing it again", self._last.version)
            self._behind.begin(self._announce_again, self._last)

    def _announce(self, version: int, weights: dict[str, Tensor]) -> None:
        given = weights if self._direct else lambda folder: self._write(folder, version, weights)
        self._last = self._store.publish(version, given, epoch=self._epoch)

    def _announce_again(self, last: Published) -> None:
        self._last = self._store.restore(last, epoch=self._epoch)

    def _write(self, folder: Path, version: int, weights: dict[str, Tensor]) -> None:
        if self._adapter_config is not None:
            save_file(weights, folder / "adapter_model.safetensors", metadata=METADATA)
            (folder / "adapter_config.json").write_text(json.dumps(self._adapter_config))
            return
        save_file(weights, folder / file_name(self._ranks if self._shared else ALONE), metadata=METADATA)
        if self._shared and self._ranks.company is not None:
            self._ranks.company.shares.collect(label(version), folder)


def label(version: int) -> str:
    """What the ranks call the folder of a version before it has a name."""
    return f"weights/{version}"


def file_name(ranks: Ranks) -> str:
    """The file of a rank's tensors."""
    return f"model-{ranks.rank + 1:05d}-of-{ranks.count:05d}.safetensors" if ranks.count > 1 else "model.safetensors"
