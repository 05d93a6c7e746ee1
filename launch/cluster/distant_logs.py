"""Brings home the logs of roles on nodes from which the run directory is not seen."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .company import Placed

logger = logging.getLogger(__name__)

EVERY_S = 1.0
REST_S = 2.0
"""How long to wait for what is left of a log as its role ends."""
MAX_PARTS = 64
"""Of such a rest: what is longer is cut."""


class DistantLogs:
    """Appends to the logs here what roles print there."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._looked_at = time.monotonic()
        self._unwritten: set[Path] = set()

    def fetch(self, roles: Sequence[Placed]) -> None:
        """Take in what has come, and ask for more; waits for nothing."""
        if time.monotonic() - self._looked_at < EVERY_S:
            return
        self._looked_at = time.monotonic()
        for placed in roles:
            if not _is_distant(placed):
                continue
            if placed.log_asked is not None and self._is_here(placed.log_asked):
                asked, placed.log_asked = placed.log_asked, None
                self._append(placed, self._told(asked))
            if placed.log_asked is None:
                placed.log_asked = self._ask(placed)

    def fetch_rest(self, placed: Placed) -> None:
        """Take in what is left of the log of a role that has just ended, or is about to be killed, if its node still tells."""
        if not _is_distant(placed):
            return
        for _ in range(MAX_PARTS):
            part = self._told(self._ask(placed))
            if not part:
                return
            self._append(placed, part)

    # What the actor or its node tells; where these are gone, nothing, as the role's result tells of that

    def _ask(self, placed: Placed) -> Any:
        try:
            return placed.actor.log_since.remote(placed.log_offset)
        except Exception:
            return None

    def _is_here(self, asked: Any) -> bool:
        try:
            return bool(self._ray.wait([asked], timeout=0)[0])
        except Exception:
            return False

    def _told(self, asked: Any) -> bytes:
        try:
            part: bytes = b"" if asked is None else self._ray.get(asked, timeout=REST_S)
        except Exception:
            part = b""
        return part

    def _append(self, placed: Placed, part: bytes) -> None:
        try:
            placed.spec.log.parent.mkdir(parents=True, exist_ok=True)
            with placed.spec.log.open("ab") as log:
                log.write(part)
        except OSError as error:
            if placed.spec.log not in self._unwritten:
                self._unwritten.add(placed.spec.log)
                logger.warning("%s lacks what its role prints from here on: %s", placed.spec.log, error)
        placed.log_offset += len(part)


def _is_distant(placed: Placed) -> bool:
    return placed.actor is not None and placed.seat is not None and not placed.seat.shares_directory
