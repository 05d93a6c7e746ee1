"""Where the learner's groups come from: fetched and decoded ahead, oldest first, each counted once."""

import heapq
import logging
import threading
import time
from collections.abc import Callable

from ..broker.errors import DeadlineExceeded
from ..broker.lane import Delivery, Lane
from .ledger import Ledger

logger = logging.getLogger(__name__)

FETCH_GROUPS = 64
IDLE_EVERY_S = 0.25


class GroupSource:
    """Takes groups off a lane in a thread of its own.

    A group is *waiting* until taken, *trained* once `settle` has put it in the ledger, and acknowledged, which removes
    it from the broker, when a durable checkpoint covers it. What was trained but not acknowledged is delivered again
    to the next learner, whose ledger (from the checkpoint) does not know it.
    """

    def __init__(self, lane: Lane, ledger: Ledger, *, epoch: int) -> None:
        self.ledger = ledger
        self._lane = lane
        self._epoch = epoch
        self._ready: list[tuple[int, str, Delivery]] = []
        self._entries: dict[int, list[str]] = {}  # of the positions that wait or are being trained
        self._settled: list[str] = []
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._fetch_until_closed, name="group-source", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Groups that could be taken at once."""
        return len(self._ready)

    @property
    def num_settled(self) -> int:
        """Groups that have been trained and are still in the broker."""
        return len(self._settled)

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

    def settle(self, deliveries: list[Delivery]) -> None:
        """Count groups as trained."""
        with self._changed:
            for delivery in deliveries:
                self.ledger.add(delivery.group.prompt_id)
                self._settled += self._entries.pop(delivery.group.prompt_id)

    def reject(self, deliveries: list[Delivery], cause: str) -> None:
        """Dead-letter groups that must not be learned from; others will be issued in their place."""
        for delivery in deliveries:
            self._lane.reject(delivery, cause)
            with self._changed:
                self._settled += self._entries.pop(delivery.group.prompt_id, [delivery.entry])[1:]

    def acknowledge(self, entries: list[str]) -> None:
        """Remove groups from the broker, once a checkpoint that covers them is durable. Raises Fenced."""
        with self._changed:  # first here, then there: the feeder in between sees too many groups, never too few
            gone = set(entries)
            self._settled = [entry for entry in self._settled if entry not in gone]
        self._lane.acknowledge(entries, epoch=self._epoch)

    def settled(self) -> list[str]:
        """The entries to acknowledge once what has been trained up to now is durable."""
        with self._changed:
            return list(self._settled)

    def close(self) -> None:
        self._closed = True
        self._thread.join(timeout=5.0)

    def _fetch_until_closed(self) -> None:
        after = "0"
        try:
            while not self._closed:
                deliveries, after = self._lane.take(after, count=FETCH_GROUPS, timeout_s=1.0)
                self._admit(deliveries)
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _admit(self, deliveries: list[Delivery]) -> None:
        """File new groups as waiting. A duplicate is only remembered, to be acknowledged with the one it repeats."""
        with self._changed:
            for delivery in deliveries:
                position = delivery.group.prompt_id
                if position in self.ledger:
                    logger.info("prompt %d was learned from before; its group is dropped", position)
                    self._settled.append(delivery.entry)
                elif position in self._entries:
                    self._entries[position].append(delivery.entry)
                else:
                    self._entries[position] = [delivery.entry]
                    heapq.heappush(self._ready, (position, delivery.entry, delivery))
            self._changed.notify_all()
