"""Where the ledger listens: the public methods of areal that a process calls, each wrapped to note what came of it.

All that this test knows of areal's methods stands here; the roles that call them know nothing of it.
"""

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.lane import Delivery, Lane, Receipt
from areal.broker.tickets import Tickets
from areal.broker.trajectory import Prompt

from .journal import (
    Acknowledged,
    Answered,
    Completed,
    Delivered,
    Durable,
    Failed,
    Issued,
    Journal,
    Leased,
    Led,
    Resumed,
    Trained,
)

ANSWERED_EVERY_S = 0.05

Method = Callable[..., Any]


def wrap(owner: type, name: str, make: Callable[[Method], Method]) -> None:
    """Replace a method by what `make` makes of it."""
    method = getattr(owner, name)
    setattr(owner, name, functools.wraps(method)(make(method)))


def after(owner: type, name: str, note: Callable[..., None]) -> None:
    """Have `note(result, *arguments)` called whenever a method has returned."""

    def make(method: Method) -> Method:
        def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            note(result, *args, **kwargs)
            return result

        return noting

    wrap(owner, name, make)


def watch_redis(journal: Journal) -> None:
    """Note now and then that Redis answers."""
    noted_at = 0.0

    def note(*_: Any, **__: Any) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at > ANSWERED_EVERY_S:
            noted_at = time.monotonic()
            journal.write(Answered(), flush=False)

    after(Client, "execute_command", note)


def watch_worker(journal: Journal) -> None:
    """Note what a worker leases, completes and fails."""

    def leased(leases: Iterable[Any], *_: Any, **__: Any) -> None:
        for lease in leases:
            journal.write(Leased(lease.prompt.id, lease.attempt))

    after(Tickets, "lease", leased)
    after(Tickets, "complete", lambda done, lease, *_, **__: journal.write(Completed(lease.prompt.id, bool(done))))
    after(Tickets, "fail", lambda again, _, lease, *__, **___: journal.write(Failed(lease.prompt.id, bool(again))))


class LearnerWitness:
    """Notes what the learner of this process does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._epoch = 0

    def watch(self) -> None:
        from areal.learner.checkpoint import CheckpointStore
        from areal.learner.trainer import Trainer

        after(CheckpointStore, "load_latest", self._resumed)
        after(Bulletin, "lead", self._led)
        after(Lane, "issue", self._issued)
        after(Lane, "reissue", self._reissued)
        after(Lane, "fetch", lambda deliveries, *_: self._delivered(deliveries))
        wrap(Lane, "acknowledge", self._acknowledging)
        after(Trainer, "step", self._trained)
        wrap(CheckpointStore, "save", self._saving)

    def _resumed(self, snapshot: Any) -> None:
        if snapshot is not None:
            self._journal.write(Resumed(snapshot.state.epoch, snapshot.state.step))

    def _led(self, epoch: int, *_: Any, **__: Any) -> None:
        self._epoch = epoch
        self._journal.write(Led(epoch))

    def _issued(self, issued: int, prompts: Sequence[Prompt], **_: Any) -> None:
        """Positions below the number that came back are issued; those above were not, this time."""
        self._note_issued([prompt.id for prompt in prompts if prompt.id < issued])

    def _reissued(self, _: int, prompts: Sequence[Prompt], **__: Any) -> None:
        self._note_issued([prompt.id for prompt in prompts])

    def _note_issued(self, positions: list[int]) -> None:
        if positions:
            self._journal.write(Issued(self._epoch, positions))

    def _delivered(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            entries = [delivery.receipt.entry for delivery in deliveries]
            self._journal.write(Delivered(entries, [delivery.group.prompt_id for delivery in deliveries]))

    def _acknowledging(self, acknowledge: Method) -> Method:
        def noting(lane: Lane, receipts: Sequence[Receipt], **kwargs: Any) -> Any:
            if receipts:
                self._journal.write(Acknowledged(self._epoch, [receipt.entry for receipt in receipts]))
            return acknowledge(lane, receipts, **kwargs)

        return noting

    def _trained(self, taken: Any, groups: Any, *, step: int, version: int) -> None:
        learned = [group for place, group in enumerate(groups) if place not in taken.refused]
        oldest = [int(t.versions[t.action_mask].min()) for group in learned for t in group.trajectories]
        positions = [group.prompt_id for group in learned]
        too_old = int(taken.measured["tokens_too_old"])
        self._journal.write(Trained(self._epoch, step + 1, version, positions, oldest, too_old))

    def _saving(self, save: Method) -> Method:
        def noting(store: Any, snapshot: Any, *, done: Callable[[], None], **kwargs: Any) -> Any:
            state = snapshot.state

            def durable() -> None:
                learned = [list(span) for span in state.trained]
                self._journal.write(Durable(self._epoch, state.step, learned))
                done()

            return save(store, snapshot, done=durable, **kwargs)

        return noting
