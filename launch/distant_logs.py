"""Brings home the logs of roles on nodes from which the run directory is not seen."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from .company import Placed

EVERY_S = 1.0
REST_S = 2.0
"""How long to wait for what is left of a log once its role has ended."""
MAX_PARTS = 64
"""Of such a rest: what is longer is cut."""


class DistantLogs:
    """Appends to the logs here what roles print there."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._looked_at = time.monotonic()

    def fetch(self, roles: Sequence[Placed]) -> None:
        """Take in what has come, and ask for more; waits for nothing."""
        if time.monotonic() - self._looked_at < EVERY_S:
            return
        self._looked_at = time.monotonic()
        for placed in roles:
            if not _is_distant(placed):
                continue
            with contextlib.suppress(Exception):  # the actor or its node is gone, which its result tells
                if placed.log_asked is not None and self._ray.wait([placed.log_asked], timeout=0)[0]:
                    asked, placed.log_asked = placed.log_asked, None
                    _append(placed, self._ray.get(asked))
                if placed.log_asked is None:
                    placed.log_asked = placed.actor.log_since.remote(placed.log_offset)

    def fetch_rest(self, placed: Placed) -> None:
        """Take in what is left of the log of a role that has just ended, if its node still tells."""
        if not _is_distant(placed):
            return
        with contextlib.suppress(Exception):  # the same
            for _ in range(MAX_PARTS):
                part = self._ray.get(placed.actor.log_since.remote(placed.log_offset), timeout=REST_S)
                if not part:
                    return
                _append(placed, part)


def _is_distant(placed: Placed) -> bool:
    return placed.actor is not None and placed.seat is not None and not placed.seat.shares_directory


def _append(placed: Placed, part: bytes) -> None:
    placed.spec.log.parent.mkdir(parents=True, exist_ok=True)
    with placed.spec.log.open("ab") as log:
        log.write(part)
    placed.log_offset += len(part)
