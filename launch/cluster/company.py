"""Roles that live and die together: the ranks of a learner, or a rollout worker by itself."""

from dataclasses import dataclass
from typing import Any

from ...broker.errors import RoleDied
from ..roles import RoleSpec
from .actor import Seat
from .restarts import Restarts

TELL_S = 10.0
"""How long to wait, once a role has ended because another is gone, for that one to say why it is."""


@dataclass(slots=True)
class Placed:
    """A role, the actor that runs it while it runs, and how it ended once it has: `done` if well.

    `seat` is where it was last placed, once that is known; `ready` is what its actor says of that until then. Of a log that
    lies elsewhere `log_offset` bytes have been fetched, and `log_asked` will be the next. Since `lost_at` Ray has not reached
    its actor, and does not know yet what has become of it.
    """

    spec: RoleSpec
    actor: Any = None
    result: Any = None
    ready: Any = None
    seat: Seat | None = None
    log_asked: Any = None
    log_offset: int = 0
    lost_at: float | None = None
    done: bool = False
    error: Exception | None = None
    failed_at: float = 0.0


@dataclass(slots=True)
class Company:
    """The first of its members leads: once that has ended well, the work of all is done.

    It was placed at `placed_at`, and its deaths are counted by `restarts`; while none of it runs, it will be at
    `restart_at`. One that was `added` while the run went on is given up where another would end the run; one that is to
    leave was told so at `leaving_at`. Times are of the monotonic clock. `group` is what Ray keeps its places by, and
    `room` what tells that it has them; `told_busy`, whether somebody knows that it waits for them.
    """

    members: list[Placed]
    restarts: Restarts
    group: Any = None
    room: Any = None
    told_busy: bool = False
    placed_at: float = 0.0
    restart_at: float | None = None
    added: bool = False
    leaving_at: float | None = None

    @property
    def leader(self) -> Placed:
        return self.members[0]

    @property
    def done(self) -> bool:
        """Whether its work is done and nobody of it runs any more."""
        return self.leader.done and not self.running()

    def running(self) -> list[Placed]:
        return [placed for placed in self.members if placed.actor is not None]

    def culprit(self, now: float) -> Placed | None:
        """Whose error has ended the company, if one has: the first that is more than the end of another."""
        failed = [placed for placed in self.members if placed.error is not None]
        own = [placed for placed in failed if not isinstance(placed.error, RoleDied)]
        if own:
            return own[0]
        if any(placed.lost_at is not None for placed in self.running()):
            return None
        if failed and (not self.running() or now - min(placed.failed_at for placed in failed) > TELL_S):
            return failed[0]
        return None
