"""Whether anybody drives the run that workers from outside work for, and how long one that is silent is waited for."""

import time
from collections.abc import Callable

from ...broker.helm import Driving, Helm
from ..control.look import SILENT_AFTER_S, Look, how_it_stands
from ..screen import span

GIVEN_UP_S = 300.0
"""When no driver has been heard for so long, nobody takes its place: neither its guard, after its back-off, nor a person."""


class Vigil:
    """Listens to the newest driver of a run."""

    def __init__(self, helm: Helm, say: Callable[[str, str], None]) -> None:
        """
        say: tells a person something, in a style.
        """
        self._helm = helm
        self._say = say
        self._driving: Driving | None = None
        self._heard_at = time.monotonic()
        self._waits = False

    def look(self) -> str:
        """Why nobody drives the run any more; empty while somebody does, or may again. Raises BrokerUnavailable."""
        heard, now = self._helm.heard(), time.monotonic()
        if heard is not None:
            self._driving, ago_s = heard
            self._heard_at = max(self._heard_at, now - ago_s)
        if self._driving is not None and self._driving.ended:
            return self._told()
        silent_s = now - self._heard_at
        if silent_s > GIVEN_UP_S:
            return f"no driver has been heard for {span(silent_s)}: {self._told()}"
        self._tell(silent_s)
        return ""

    def _tell(self, silent_s: float) -> None:
        """Say what is waited for, and that it has come."""
        waits = silent_s > SILENT_AFTER_S
        if waits and not self._waits:
            left = span(GIVEN_UP_S - silent_s)
            self._say(
                f"the run's driver is silent; the workers wait for it, or another in its place, {left} more", "yellow"
            )
        elif self._waits and not waits:
            self._say("the run has a driver again", "")
        self._waits = waits

    def _told(self) -> str:
        return how_it_stands(Look(self._driving, alive=False))
