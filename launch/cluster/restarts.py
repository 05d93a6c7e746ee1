"""When what has died is started again: after 1, 2, 4 … s, and no more once it has died too often in a row."""

from collections.abc import Callable, Sequence

from ...broker.rollcall import Heard

BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
"""However often it has died, it is started again after so long."""

STEADY_S = 120.0
"""What has lived for so long before it died starts with a clean count, a role if it has got something done."""


class Restarts:
    """Counts how often in a row something has died."""

    def __init__(self, limit: int) -> None:
        """
        limit: how often in a row it is started again.
        """
        self._limit = limit
        self.deaths = 0

    def note(self, *, steady: bool) -> None:
        """It has died; if it was steady before, for the first time in a row."""
        self.deaths = 1 if steady else self.deaths + 1

    @property
    def exhausted(self) -> bool:
        """Whether it has died too often to be started again."""
        return self.deaths > self._limit

    @property
    def delay_s(self) -> float:
        """How long after its last death it is started again."""
        return min(BACKOFF_S * 2.0 ** min(self.deaths - 1, 16), MAX_BACKOFF_S)


def is_steady(name: str, lived_s: float, roll: Callable[[], Sequence[Heard]]) -> bool:
    """Whether a role that has lived for so long was steady: lived for a while, and did something in that time.

    roll: the roll-call, asked only if the role has lived for long enough.
    """
    return lived_s > STEADY_S and any(
        heard.ago_s < lived_s and heard.member.active_at > heard.member.started_at
        for heard in roll()
        if heard.member.name == name
    )
