"""Issues prompts, just so many that no answer can grow staler than allowed."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..broker.errors import TooManyDeadLetters
from ..broker.lane import Lane, Listing
from ..broker.trajectory import Prompt
from .dataset import Dataset
from .source import GroupSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flow:
    """What bounds the prompts of a run.

    max_outstanding:  (η + 1)·B, of prompts not completed and groups not trained.
    max_dead_letters: with more than these, none are issued.
    group_size:       answers to each (G).
    epoch:            of the learner that issues them.
    """

    max_outstanding: int
    max_dead_letters: int
    group_size: int
    epoch: int


class Feeder:
    """Keeps `prompts not completed + groups not trained ≤ (η + 1)·B`, read off the queues each time.

    After i steps of B groups that is N ≤ (i + η + 1)·B prompts in all, the bound of AReaL (arXiv 2505.24298, section
    4), without a counter that could drift: what was filtered or dead-lettered leaves the queues, and is replaced.
    """

    def __init__(
        self,
        lane: Lane,
        dataset: Dataset,
        source: GroupSource,
        flow: Flow,
        *,
        teaches: Callable[[int], bool] = lambda position: True,
    ) -> None:
        """`teaches` says whether the row at a position is worth issuing; others are passed over, and count as looked at."""
        self._lane = lane
        self._dataset = dataset
        self._source = source
        self._flow = flow
        self._teaches = teaches
        self._server = ""
        self._lost: list[int] = []

    def top_up(self, *, version: int, needed: int) -> int:
        """Issue prompts for weights of `version` or newer, as far as the bound and the `needed` groups allow.

        Dead letters that are to be tried again go first, then what was lost, then new positions. Returns how many.
        Raises Fenced, and TooManyDeadLetters.
        """
        flow, listing = self._flow, self._lane.listing()
        if listing.dead > flow.max_dead_letters:
            raise TooManyDeadLetters(
                f"{listing.dead} prompts of this run are dead letters, more than broker.max_dead_letters "
                f"({flow.max_dead_letters}): `areal dead list` tells why. Mend it, retry or drop them, and run again"
            )
        if listing.server != self._server:
            self._find_lost(listing)
        room = min(flow.max_outstanding, needed) - self._source.outstanding(listing)
        if room <= 0:
            return 0
        resumed = min(room, listing.again)
        self._lane.resume(resumed, waiting=listing.again, epoch=flow.epoch)
        self._lost = [position for position in self._lost if position not in self._source.ledger]
        lost = self._lost[: room - resumed]
        self._lane.reissue(self._prompts(lost, version), epoch=flow.epoch)
        self._lost = self._lost[len(lost) :]
        fresh = self._fresh(listing.issued, room - resumed - len(lost))
        self._lane.issue(self._prompts(fresh, version), after=listing.issued, epoch=flow.epoch)
        return resumed + len(lost) + len(fresh)

    def look_again(self) -> None:
        """Look for what is lost at the next top-up, as for a new server."""
        self._server = ""

    def _find_lost(self, listing: Listing) -> None:
        """Note the positions that were issued and are nowhere, to be issued again.

        A Redis that came back older has forgotten them, or an earlier learner had learned from them whose checkpoints
        did not survive. Asked of each new learner and each new server.
        """
        self._server = listing.server
        missing = self._source.ledger.missing(listing.issued, self._lane.positions())
        for position in (each for each in missing if not self._teaches(each)):
            self._source.pass_over(position)  # again: no checkpoint knows of the first time
        self._lost = [position for position in missing if position not in self._source.ledger]
        if self._lost:
            logger.warning("%d prompts are lost, from %d on; they are issued again", len(self._lost), self._lost[0])

    def _fresh(self, issued: int, count: int) -> list[int]:
        """The next `count` positions. Those learned from already are passed over: Redis may have lost what it issued."""
        positions: list[int] = []
        for _ in range(count):
            issued = self._next(issued)
            positions.append(issued)
            issued += 1
        return positions

    def _next(self, position: int) -> int:
        """The first position from this one on to issue; where no row of an epoch teaches anything, the one after it."""
        for _ in range(self._dataset.num_rows or 1):
            position = self._source.ledger.next_free(position)
            if self._teaches(position):
                return position
            self._source.pass_over(position)
        return self._source.ledger.next_free(position)

    def _prompts(self, positions: Iterable[int], version: int) -> list[Prompt]:
        return [Prompt(p, version, self._flow.group_size, self._dataset.train_row(p)) for p in positions]
