"""How long it took to recover, from the same ledger."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from .journal import (
    Answered,
    Began,
    Completed,
    Entry,
    Failed,
    Loaded,
    RedisDied,
    RedisStarted,
    Replaced,
    Started,
    Struck,
    Trained,
)

LEARNER_GOAL_S = 10.0
"""Of a learner's recovery, beside the loading of its model."""

WORKER_GOAL_S = 2.0
"""Of a worker's, beside the time after which a lease expires."""


@dataclass(slots=True)
class Recovery:
    """Seconds from a kind of death to what ends it. `undisturbed_s` are those during which no other fault struck."""

    what: str
    goal_s: float | None = None
    all_s: list[float] = field(default_factory=list)
    undisturbed_s: list[float] = field(default_factory=list)


class Recoveries:
    """The measures of a run whose entries are in the order of time."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._strikes = [entry for entry in entries if isinstance(entry.record, Struck)]
        self._by_process: dict[str, list[Entry]] = {}
        for entry in entries:
            self._by_process.setdefault(entry.process, []).append(entry)

    def measure(self, *, lease_s: float) -> list[Recovery]:
        """All of them, in the order of the table."""
        return [self._workers(lease_s), *self._learners(), *self._redis(), self._steps()]

    def _workers(self, lease_s: float) -> Recovery:
        """From the death of a worker until another process generates what it held; for each prompt."""
        found = Recovery("worker killed → its prompts generated again", goal_s=lease_s + WORKER_GOAL_S)
        starts: dict[int, list[float]] = {}
        for entry in self._entries:
            if isinstance(entry.record, Started):
                starts.setdefault(entry.record.position, []).append(entry.time)
        for strike in self._of("worker_kill"):
            for position in self._held(strike):
                later = bisect_right(starts[position], strike.time)
                if later < len(starts[position]):
                    self._add(found, strike, starts[position][later])
        return found

    def _held(self, strike: Entry) -> set[int]:
        """The prompts that the killed process had begun and neither completed nor failed."""
        held: set[int] = set()
        for entry in self._by_process.get(_target(strike), []):
            if isinstance(entry.record, Started):
                held.add(entry.record.position)
            elif isinstance(entry.record, Completed | Failed):
                held.discard(entry.record.position)
        return held

    def _learners(self) -> list[Recovery]:
        """From the death of the learner to a step of the next; how long that one took to load, once it was told to; the rest."""
        whole = Recovery("learner killed → a step taken")
        load = Recovery("  of which loading the model")
        rest = Recovery("  and the rest", goal_s=LEARNER_GOAL_S)
        steps = [entry for entry in self._entries if isinstance(entry.record, Trained)]
        for strike in [*self._of("learner_kill"), *self._of("learner_twin")]:
            step = next((e for e in steps if e.time > strike.time and e.process != _target(strike)), None)
            if step is not None:
                load_s = self._load_s(step.process)
                self._add(whole, strike, step.time)
                self._add(load, strike, step.time, seconds=load_s)
                self._add(rest, strike, step.time, seconds=step.time - strike.time - load_s)
        code = Recovery("  loading its code, once for all, ahead")
        code.all_s = [e.record.import_s for e in self._entries if isinstance(e.record, Began) and e.role == "learner"][
            :1
        ]
        return [whole, load, rest, code]

    def _load_s(self, process: str) -> float:
        entries = self._by_process[process]
        loaded_at = next(entry.time for entry in entries if isinstance(entry.record, Loaded))
        return loaded_at - next(entry.record.told_at for entry in entries if isinstance(entry.record, Began))

    def _redis(self) -> list[Recovery]:
        """From the death of Redis to the first answer that each process got of the next one, if it lived on."""
        found = {role: Recovery(f"redis killed → answers {role}") for role in ("learner", "rollout")}
        for died in self._entries:
            if not isinstance(died.record, RedisDied):
                continue
            started = next(
                (e for e in self._entries if e.time > died.time and isinstance(e.record, RedisStarted)), None
            )
            own = next((s for s in self._strikes if s.time >= died.time), None)
            if started is None or own is None:
                continue
            for process, entries in self._by_process.items():
                answers = [entry.time for entry in entries if isinstance(entry.record, Answered)]
                later = bisect_right(answers, started.time)
                if (
                    answers
                    and answers[0] < died.time
                    and later < len(answers)
                    and self._reached(process, died, answers[later])
                ):
                    self._add(found[process.partition("-")[0].partition(".")[0]], own, answers[later], since=died.time)
        return list(found.values())

    def _reached(self, process: str, died: Entry, until: float) -> bool:
        """Whether a process ran and could reach Redis all the while."""
        replaced = any(e.record == Replaced(process) and e.time <= until for e in self._entries)
        return not replaced and not any(
            s.record.target == process and _overlaps(s, died.time, until)
            for s in self._strikes
            if isinstance(s.record, Struck)
        )

    def _steps(self) -> Recovery:
        found = Recovery("from one step to the next")
        steps = [entry for entry in self._entries if isinstance(entry.record, Trained)]
        for before, following in itertools.pairwise(steps):
            found.all_s.append(following.time - before.time)
            if not any(_overlaps(strike, before.time, following.time) for strike in self._strikes):
                found.undisturbed_s.append(following.time - before.time)
        return found

    def _of(self, kind: str) -> list[Entry]:
        return [entry for entry in self._strikes if isinstance(entry.record, Struck) and entry.record.kind == kind]

    def _add(
        self, to: Recovery, strike: Entry, end: float, *, since: float | None = None, seconds: float | None = None
    ) -> None:
        taken_s = end - (since or strike.time) if seconds is None else seconds
        to.all_s.append(taken_s)
        if not any(_overlaps(other, strike.time, end) for other in self._strikes if other is not strike):
            to.undisturbed_s.append(taken_s)


def _overlaps(strike: Entry, begin: float, end: float) -> bool:
    assert isinstance(strike.record, Struck)
    return strike.time <= end and begin <= strike.time + strike.record.lasts_s


def _target(strike: Entry) -> str:
    assert isinstance(strike.record, Struck)
    return strike.record.target
