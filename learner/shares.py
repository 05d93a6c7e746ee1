"""A folder that several ranks write into, each files of its own: none of them ever holds all that goes there."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..broker.errors import BrokerError, DeadlineExceeded

WRITE_TIMEOUT_S = 600.0

Write = Callable[[Path], None]
"""Adds files to a folder."""


class Shares:
    """The leader names the folder, under a label that the others wait for. For one thread of each rank."""

    def __init__(self, store: Any, *, rank: int, count: int) -> None:
        self._store = store.clone()  # a connection is taken up by a wait, and others have orders to listen for
        self._rank = rank
        self._count = count

    def collect(self, label: str, folder: Path) -> None:
        """Let the others add their files to a folder; returns once they have. Raises what went wrong with one."""
        others = [f"{label}/{rank}" for rank in range(1, self._count)]
        self._store.set(f"{label}/folder", str(folder))
        causes = [self._awaited(key) for key in others]
        for key in [*others, f"{label}/folder"]:
            self._store.delete_key(key)
        for key, cause in zip(others, causes, strict=True):
            if cause:
                raise BrokerError(f"rank {key.rpartition('/')[2]} could not write its part of {folder}: {cause}")

    def contribute(self, label: str, write: Write) -> None:
        """Add this rank's files to the folder that the leader names. Raises what `write` does, having told the leader."""
        folder, cause = Path(self._awaited(f"{label}/folder")), ""
        try:
            write(folder)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._store.set(f"{label}/{self._rank}", cause)

    def _awaited(self, key: str) -> str:
        try:
            self._store.wait([key], timedelta(seconds=WRITE_TIMEOUT_S))
        except torch.distributed.DistStoreError as error:
            raise DeadlineExceeded(f"another rank did not do its part ({key}) within {WRITE_TIMEOUT_S:g} s") from error
        value: bytes = self._store.get(key)
        return value.decode()
