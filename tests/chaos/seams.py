"""Where the ledger listens: the public methods of areal that a process calls, each wrapped to note what came of it.

All that this test knows of areal's methods stands here; the roles that call them know nothing of it.
"""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.lane import Lane
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


def watch_worker(journal: Journal, tickets: type) -> None:
    """Note what a worker leases, completes and fails; `tickets` is its side of a lane."""

    def leased(leases: Iterable[Any], *_: Any, **__: Any) -> None:
        for lease in leases:
            journal.write(Leased(lease.prompt.id, lease.attempt))

    after(tickets, "lease", leased)
    after(tickets, "complete", lambda done, lease, *_, **__: journal.write(Completed(lease.prompt.id, bool(done))))
    after(tickets, "fail", lambda again, _, lease, *__, **___: journal.write(Failed(lease.prompt.id, bool(again))))


class LearnerWitness:
    """Notes what the learner of this process does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._epoch = 0
        self._from_epoch = self._from_step = 0

    def watch(self) -> None:
        from areal.learner.checkpoint import CheckpointStore
        from areal.learner.trainer import Trainer

        after(CheckpointStore, "load_latest", self._resumed)
        after(Bulletin, "lead", self._led)
        after(Lane, "issue", self._issued)
        if hasattr(Lane, "reissue"):
            after(Lane, "reissue", self._reissued)
        if hasattr(Lane, "fetch"):
            after(Lane, "fetch", lambda deliveries, *_: self._delivered(deliveries))
        else:
            after(Lane, "take", lambda found, *_, **__: self._delivered(found[0]))
        wrap(Lane, "acknowledge", self._acknowledging)
        after(Trainer, "step", self._trained)
        wrap(CheckpointStore, "save", self._saving)

    def _resumed(self, snapshot: Any) -> None:
        if snapshot is not None:
            self._from_epoch, self._from_step = snapshot.state.epoch, snapshot.state.step

    def _led(self, epoch: int, *_: Any, **__: Any) -> None:
        self._epoch = epoch
        self._journal.write(Led(epoch, self._from_epoch, self._from_step))

    def _issued(self, issued: int, *args: Any, **kwargs: Any) -> None:
        """Positions below the number that came back are issued; those above were not, this time."""
        self._note_issued(position for position in _positions([*args, *kwargs.values()]) if position < issued)

    def _reissued(self, _: int, *args: Any, **kwargs: Any) -> None:
        self._note_issued(_positions([*args, *kwargs.values()]))

    def _note_issued(self, positions: Iterable[int]) -> None:
        if noted := list(positions):
            self._journal.write(Issued(self._epoch, noted))

    def _delivered(self, deliveries: Iterable[Any]) -> None:
        found = [(_entry(delivery), delivery.group.prompt_id) for delivery in deliveries]
        if found:
            self._journal.write(Delivered([entry for entry, _ in found], [position for _, position in found]))

    def _acknowledging(self, acknowledge: Method) -> Method:
        def noting(lane: Any, items: Any, **kwargs: Any) -> Any:
            if items:
                self._journal.write(Acknowledged(self._epoch, [_entry(item) for item in items]))
            return acknowledge(lane, items, **kwargs)

        return noting

    def _trained(self, measured: dict[str, float], groups: Any, *, step: int, version: int) -> None:
        oldest = [int(t.versions[t.action_mask].min()) for group in groups for t in group.trajectories]
        positions = [group.prompt_id for group in groups]
        too_old = int(measured["tokens_too_old"])
        self._journal.write(Trained(self._epoch, step + 1, version, positions, oldest, too_old))

    def _saving(self, save: Method) -> Method:
        def noting(store: Any, snapshot: Any, done: Callable[[], None]) -> Any:
            state = snapshot.state

            def durable() -> None:
                learned = [list(span) for span in state.trained]
                self._journal.write(Durable(self._epoch, state.step, learned))
                done()

            return save(store, snapshot, durable)

        return noting


def _positions(arguments: Iterable[Any]) -> list[int]:
    """The positions of the prompts among a call's arguments, wherever they stand."""
    lists = [argument for argument in arguments if isinstance(argument, list | tuple)]
    return [item.id for found in lists for item in found if isinstance(item, Prompt)]


def _entry(item: Any) -> str:
    """The entry of a delivery, of its receipt, or the entry itself."""
    return item if isinstance(item, str) else str(getattr(item, "receipt", item).entry)
