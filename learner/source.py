"""Where the learner's groups come from: fetched and decoded ahead, oldest first, each counted once."""

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ..broker.errors import DeadlineExceeded
from ..broker.lane import Delivery, Lane, Listing, Receipt
from ..broker.trajectory import Group
from .ledger import Ledger

logger = logging.getLogger(__name__)

FETCH_GROUPS = 64
IDLE_EVERY_S = 0.25
RECONCILE_EVERY_S = 1.0


class GroupSource:
    """Takes groups off a lane, once `start` is called in a thread of its own.

    A group is *waiting* until taken, *trained* once `settle` has put it in the ledger, and acknowledged, which removes
    it from the broker, when a durable checkpoint covers it. What was trained but not acknowledged is delivered again
    to the next learner, whose ledger (from the checkpoint) does not know it.

    Redis may come back a second older: groups return that were acknowledged, and others go that are here already. So
    what is here is compared with what is there every RECONCILE_EVERY_S, and nothing is counted but what is there or
    here and not in the ledger.
    """

    def __init__(
        self,
        lane: Lane,
        ledger: Ledger,
        *,
        epoch: int,
        filtered: int = 0,
        unfit: Callable[[Group[Any]], str | None] = lambda group: None,
    ) -> None:
        """`filtered` counts what is in the ledger and was only looked at.

        `unfit` says why a group must not be learned from; such a one is dead-lettered as it comes.
        """
        self.ledger = ledger
        self.filtered = filtered
        self._lane = lane
        self._epoch = epoch
        self._unfit = unfit
        self._after = "0"
        self._reconciled_at = time.monotonic()
        self._ready: list[tuple[int, str, Delivery]] = []
        self._held: dict[int, list[Receipt]] = {}  # of the positions that wait or are being trained
        self._settled: dict[str, Receipt] = {}
        self._covered: set[str] = set()  # of those settled, what the newest checkpoint covers, durable yet or not
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._fetch_until_closed, name="group-source", daemon=True)

    def start(self) -> None:
        """Begin to fetch."""
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Groups that could be taken at once."""
        return len(self._ready)

    @property
    def num_uncovered(self) -> int:
        """Groups that are settled, and that the broker holds until a checkpoint covers them that is yet to be made."""
        with self._changed:
            return len(self._settled.keys() - self._covered)

    def outstanding(self, listing: Listing) -> int:
        """Prompts not completed and groups not trained: of what the broker lists, and what is only here."""
        with self._changed:
            groups = {receipt.position for receipt in listing.groups} | self._held.keys()
            return listing.prompts + sum(position not in self.ledger for position in groups)

    def take(self, count: int, *, timeout_s: float, idle: Callable[[], bool]) -> list[Delivery]:
        """The `count` oldest groups, waited for. `idle` is called while waiting; none are taken once it says True.

        Raises DeadlineExceeded, and what went wrong in the thread that fetches.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if len(self._ready) >= count:
                    return [heapq.heappop(self._ready)[2] for _ in range(count)]
            if idle():
                return []
            with self._changed:
                if len(self._ready) < count and self._error is None:
                    self._changed.wait(IDLE_EVERY_S)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"only {self.num_waiting} of {count} groups came from the rollout workers within {timeout_s:g} s; "
                    "see their logs, or raise learner.take_timeout_s"
                )

    def settle(self, deliveries: list[Delivery], *, learned: bool = True) -> None:
        """Count groups as trained; as filtered, too, where they were only looked at."""
        with self._changed:
            self.filtered += 0 if learned else len(deliveries)
            for delivery in deliveries:
                position = delivery.group.prompt_id
                self.ledger.add(position)
                self._settled |= {receipt.entry: receipt for receipt in self._held.pop(position)}

    def pass_over(self, position: int) -> None:
        """Count a position that is not to be issued, as one that was only looked at."""
        with self._changed:
            self.ledger.add(position)
            self.filtered += 1

    def reject(self, deliveries: list[Delivery], cause: str) -> None:
        """Dead-letter groups that must not be learned from; others will be issued in their place. Raises Fenced."""
        for delivery in deliveries:
            with self._changed:
                receipts = list(self._held[delivery.group.prompt_id])
            worker = delivery.group.worker
            while receipts and not self._lane.reject(receipts.pop(0), cause, worker=worker, epoch=self._epoch):
                pass  # Redis had forgotten that one
            with self._changed:
                self._held.pop(delivery.group.prompt_id)
                self._settled |= {receipt.entry: receipt for receipt in receipts}

    def acknowledge(self, receipts: list[Receipt]) -> None:
        """Remove groups from the broker, once a checkpoint that covers them is durable. Raises Fenced."""
        self._lane.acknowledge(receipts, epoch=self._epoch)
        with self._changed:
            for receipt in receipts:
                self._settled.pop(receipt.entry, None)

    def settled(self) -> list[Receipt]:
        """What to acknowledge once all that has been trained up to now is durable; it is covered from now on."""
        with self._changed:
            self._covered = set(self._settled)
            return list(self._settled.values())

    def close(self) -> None:
        self._closed = True
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def poll(self, timeout_s: float) -> None:
        """Fetch what has come, waited for at most `timeout_s`; at times, compare what is here with what is there."""
        deliveries, self._after = self._lane.take(self._after, count=FETCH_GROUPS, timeout_s=timeout_s)
        self._admit(deliveries)
        if time.monotonic() - self._reconciled_at >= RECONCILE_EVERY_S:
            self._reconciled_at = time.monotonic()
            self._reconcile()

    def _reconcile(self) -> None:
        """Fetch what is there, not to come and unknown here; forget what was settled and is there no more."""
        with self._changed:
            settled = set(self._settled)
            known = settled.union(receipt.entry for held in self._held.values() for receipt in held)
        listed = {receipt.entry: receipt for receipt in self._lane.listing().groups}
        with self._changed:
            for entry in settled - listed.keys():
                self._settled.pop(entry, None)
        after = _order(self._after)
        unknown = [receipt for entry, receipt in listed.items() if entry not in known and _order(entry) <= after]
        if unknown:
            self._admit(self._lane.fetch(unknown))

    def _fetch_until_closed(self) -> None:
        try:
            while not self._closed:
                self.poll(timeout_s=1.0)
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _admit(self, deliveries: list[Delivery]) -> None:
        """File new groups as waiting. A duplicate is only remembered, to be acknowledged with the one it repeats."""
        fit = [delivery for delivery in deliveries if self._known(delivery) or not self._refused(delivery)]
        with self._changed:
            for delivery in fit:
                position, receipt = delivery.group.prompt_id, delivery.receipt
                if position in self.ledger:
                    logger.info("prompt %d was learned from before; its group is dropped", position)
                    self._settled[receipt.entry] = receipt
                elif position in self._held:
                    self._held[position].append(receipt)
                else:
                    self._held[position] = [receipt]
                    heapq.heappush(self._ready, (position, receipt.entry, delivery))
            self._changed.notify_all()

    def _known(self, delivery: Delivery) -> bool:
        """Whether it repeats a group that waits, or that was learned from: it will only be acknowledged."""
        with self._changed:
            return delivery.group.prompt_id in self.ledger or delivery.group.prompt_id in self._held

    def _refused(self, delivery: Delivery) -> bool:
        cause = self._unfit(delivery.group)
        if cause is not None:
            logger.warning("a group is dead-lettered: %s", cause)
            self._lane.reject(delivery.receipt, cause, worker=delivery.group.worker, epoch=self._epoch)
        return cause is not None


def _order(entry: str) -> tuple[int, int]:
    """The place of a stream's entry among the others."""
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence or 0)
