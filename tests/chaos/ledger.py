"""The verdict, computed from what the processes saw themselves do and from what is left in Redis, by no code of areal's.

Legend: a *lineage* is the history that a learner has behind it: the steps in the checkpoint that it resumed from, which
another learner took, and its own. The lineage of the last learner to lead is the one that survives. What a learner did that is in
no later one's checkpoint is not part of it: those groups come again.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .journal import (
    Acknowledged,
    Completed,
    Delivered,
    Durable,
    Entry,
    Failed,
    Issued,
    Leased,
    Led,
    Loaded,
    RedisDied,
    Replaced,
    Resumed,
    Struck,
    Trained,
)

UNFLUSHED_S = 2.5
"""What Redis answered for so long before it died may be lost (appendfsync everysec, and a busy machine)."""

NOTED_S = 1.0
"""By how much an entry may be later than what it tells of."""

STALL_S = 30.0
"""A running learner without a step for so long stands still: no fault but its own death lasts as long."""

SHOWN, FIRST = 8, 3
"""How many numbers of a list, and how many problems of a kind, are shown."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A position that was given up, since when (Unix seconds), and why."""

    position: int
    time: float
    cause: str


@dataclass(frozen=True, slots=True)
class Remains:
    """What lies in Redis at the end; `issued` is the position above all that it knows of."""

    issued: int
    prompts: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    dead: tuple[DeadLetter, ...] = ()


@dataclass(slots=True)
class Verdict:
    """What became of the positions. `problems` says, with the evidence, what should not have been."""

    issued: int = 0
    learned: int = 0
    steps: int = 0
    learners: int = 0
    lost: list[int] = field(default_factory=list)
    learned_twice: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    outstanding: list[int] = field(default_factory=list)
    dead: int = 0
    dead_though_learned: int = 0
    refused: int = 0
    max_outstanding: int = 0
    too_old_tokens: int = 0
    problems: list[str] = field(default_factory=list)


class Lineages:
    """The steps that each learner has behind it. A learner is known by its process: an epoch may be given out twice."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._epochs: dict[str, int] = {}
        self._own: dict[str, dict[int, Trained]] = {}
        self._saved: dict[tuple[int, int], list[str]] = {}
        self._from: dict[str, tuple[str, int]] = {}
        self.last = ""
        """The learner that was the last to lead."""
        for entry in entries:
            match entry.record:
                case Led(epoch=epoch):
                    self._epochs[entry.process], self.last = epoch, entry.process
                case Resumed(epoch=epoch, step=step):
                    savers = self._saved.get((epoch, step)) or self._takers(epoch, step)
                    self._from[entry.process] = (savers[-1] if savers else "", step)
                case Trained(step=step) as taken:
                    self._own.setdefault(entry.process, {})[step] = taken
                case Durable(epoch=epoch, step=step):
                    self._saved.setdefault((epoch, step), []).append(entry.process)

    @property
    def num_learners(self) -> int:
        return len(self._epochs)

    def inherited(self, learner: str) -> dict[int, Trained]:
        """The steps in the checkpoint that it began from."""
        parent, upto = self._from.get(learner, ("", 0))
        return {step: taken for step, taken in self.of(parent).items() if step <= upto} if parent else {}

    def of(self, learner: str) -> dict[int, Trained]:
        """All steps of its lineage, by number."""
        return self.inherited(learner) | self._own.get(learner, {})

    def _takers(self, epoch: int, step: int) -> list[str]:
        """Those who may have written a checkpoint, and died before they could note that it was durable."""
        return [learner for learner, steps in self._own.items() if step in steps and self._epochs[learner] == epoch]


def judge(entries: Sequence[Entry], remains: Remains, *, bound: int, groups_per_step: int) -> Verdict:
    """What became of every position that was issued."""
    entries = sorted(entries, key=lambda entry: entry.time)
    lineages = Lineages(entries)
    survivors = lineages.of(lineages.last)
    verdict = Verdict(steps=len(survivors), learners=lineages.num_learners, dead=len(remains.dead))
    _judge_steps(verdict, survivors, groups_per_step)
    _judge_positions(verdict, entries, survivors, remains, bound)
    _judge_bound(verdict, entries, lineages, remains, bound)
    _judge_acknowledgements(verdict, entries, lineages, remains)
    _judge_completions(verdict, entries)
    _judge_own_account(verdict, entries, lineages, survivors)
    _judge_stalls(verdict, entries)
    return verdict


def _judge_steps(verdict: Verdict, survivors: dict[int, Trained], groups_per_step: int) -> None:
    """The lineage has every step from the first to the last, each of a whole batch, no position in two of them."""
    missing = sorted(set(range(1, max(survivors, default=0) + 1)) - survivors.keys())
    if missing:
        verdict.problems.append(f"no record of steps {_shown(missing)} in the surviving lineage")
    short = [step for step, taken in survivors.items() if len(taken.positions) != groups_per_step]
    if short:
        verdict.problems.append(f"steps {_shown(short)} are not of {groups_per_step} groups")
    counts = Counter(position for taken in survivors.values() for position in taken.positions)
    verdict.learned = len(counts)
    verdict.learned_twice = sorted(position for position, count in counts.items() if count > 1)
    verdict.too_old_tokens = sum(taken.too_old for taken in survivors.values())
    twice = []
    for position in verdict.learned_twice:
        times = [f"step {t.step} of epoch {t.epoch}" for t in survivors.values() for p in t.positions if p == position]
        twice.append(f"position {position} was learned from {len(times)} times: {', '.join(times)}")
    _add(verdict, twice, "positions were learned from more than once")


def _judge_positions(
    verdict: Verdict, entries: Sequence[Entry], survivors: dict[int, Trained], remains: Remains, bound: int
) -> None:
    """Each position that was issued is learned from, dead, or outstanding."""
    issued: set[int] = set()
    for entry in entries:
        match entry.record:
            case Issued(positions=positions) | Trained(positions=positions):
                issued |= set(positions)
            case Leased(position=position) | Completed(position=position):
                issued.add(position)
    learned = {position for taken in survivors.values() for position in taken.positions}
    dead = {letter.position for letter in remains.dead}
    waiting = {*remains.prompts, *remains.groups}
    missing = issued - learned - dead - waiting
    died = any(isinstance(entry.record, RedisDied) for entry in entries)
    verdict.issued = len(issued)
    verdict.dead_though_learned = len(dead & learned)
    verdict.outstanding = sorted(waiting - learned)
    verdict.withdrawn = sorted(position for position in missing if died and position >= remains.issued)
    verdict.lost = sorted(missing - set(verdict.withdrawn))
    lost = [f"position {p} is lost; what is known of it:\n{history(entries, p)}" for p in verdict.lost]
    _add(verdict, lost, "positions are lost")
    if len(verdict.outstanding) > bound:
        verdict.problems.append(
            f"{len(verdict.outstanding)} positions are outstanding at the end, the bound is {bound}"
        )
    if verdict.dead_though_learned and not died:
        verdict.problems.append(
            f"positions {_shown(sorted(dead & learned))} were learned from, and are dead letters too"
        )
    for letter in remains.dead:
        if not letter.cause:
            verdict.problems.append(f"the dead letter of position {letter.position} names no cause")


def _judge_bound(verdict: Verdict, entries: Sequence[Entry], lineages: Lineages, remains: Remains, bound: int) -> None:
    """Whenever a new position was issued: issued − learned by that learner's lineage − dead ≤ (η + 1)·B."""
    issued: set[int] = set()
    learned: dict[str, set[int]] = {}
    deaths = {letter.position: letter.time for letter in remains.dead}
    for (
        entry
    ) in entries:  # a letter that Redis forgot is written again later, but there was room from the first time on
        if isinstance(entry.record, Failed) and not entry.record.again:
            at = deaths.get(entry.record.position, math.inf)
            deaths[entry.record.position] = min(at, entry.time - NOTED_S)
    broken: list[str] = []

    def learned_by(learner: str) -> set[int]:
        if learner not in learned:
            learned[learner] = _positions(lineages.inherited(learner).values())
        return learned[learner]

    for entry in entries:
        record = entry.record
        if isinstance(record, Trained):
            issued |= set(record.positions)
            learned_by(entry.process).update(record.positions)
        elif isinstance(record, Issued) and not issued.issuperset(record.positions):
            issued |= set(record.positions)
            done = learned_by(entry.process)
            gone = sum(at <= entry.time and position not in done for position, at in deaths.items())
            outstanding = len(issued) - len(done) - gone
            verdict.max_outstanding = max(verdict.max_outstanding, outstanding)
            if outstanding > bound:
                broken.append(
                    f"{outstanding} outstanding, the bound is {bound}, when {entry.process} (epoch {record.epoch}) issued "
                    f"{_shown(record.positions)}: {len(issued)} issued, {len(done)} learned from, {gone} dead; "
                    f"neither: {_shown(sorted(issued - done - deaths.keys()), 2 * bound)}"
                )
    _add(verdict, broken, "times the bound broke")


def _judge_acknowledgements(verdict: Verdict, entries: Sequence[Entry], lineages: Lineages, remains: Remains) -> None:
    """A group is forgotten only once a durable checkpoint of that learner's lineage has it."""
    position_of: dict[tuple[str, str], int] = {}
    durable: dict[str, set[int]] = {}
    dead = {letter.position for letter in remains.dead}
    early: list[str] = []
    for entry in entries:
        record = entry.record
        if isinstance(record, Delivered):
            position_of.update(((entry.process, e), p) for e, p in zip(record.entries, record.positions, strict=True))
        elif isinstance(record, Durable):
            steps = lineages.of(entry.process)
            durable[entry.process] = _positions(taken for step, taken in steps.items() if step <= record.step)
        elif isinstance(record, Acknowledged):
            covered = durable.get(entry.process) or _positions(lineages.inherited(entry.process).values())
            positions = {position_of[entry.process, e] for e in record.entries if (entry.process, e) in position_of}
            if bad := sorted(positions - covered - dead):
                early.append(f"{entry.process} acknowledged {_shown(bad)}, which no durable checkpoint of its has")
    _add(verdict, early, "acknowledgements came before their checkpoint")


def _judge_completions(verdict: Verdict, entries: Sequence[Entry]) -> None:
    """A prompt is completed once, unless a Redis that died in between may have forgotten the first time."""
    died = [entry.time for entry in entries if isinstance(entry.record, RedisDied)]
    accepted: dict[int, Entry] = {}
    twice: list[str] = []
    for entry in entries:
        record = entry.record
        if not isinstance(record, Completed):
            continue
        if not record.accepted:
            verdict.refused += 1
            continue
        first = accepted.get(record.position)
        if first and not any(first.time - NOTED_S < at < min(first.time + UNFLUSHED_S, entry.time) for at in died):
            twice.append(
                f"position {record.position} was completed twice, by {first.process} and "
                f"{entry.time - first.time:.2f} s later by {entry.process}, and both times accepted"
            )
        accepted[record.position] = entry
    _add(verdict, twice, "completions were accepted again")


def _judge_own_account(
    verdict: Verdict, entries: Sequence[Entry], lineages: Lineages, survivors: dict[int, Trained]
) -> None:
    """What areal's last checkpoint says it has learned from is what the ledger says."""
    last = [e.record for e in entries if isinstance(e.record, Durable) and e.process == lineages.last]
    if not last:
        return
    claimed = {position for start, end in last[-1].learned for position in range(start, end)}
    found = _positions(taken for step, taken in survivors.items() if step <= last[-1].step)
    if claimed != found:
        verdict.problems.append(
            f"the checkpoint of step {last[-1].step} claims {_shown(sorted(claimed - found))}, which were not learned "
            f"from, and lacks {_shown(sorted(found - claimed))}, which were"
        )


def _add(verdict: Verdict, problems: list[str], what: str) -> None:
    """The first few of one kind, and how many there are."""
    verdict.problems += problems[:FIRST]
    if len(problems) > FIRST:
        verdict.problems.append(f"{len(problems)} {what} in all")


def _judge_stalls(verdict: Verdict, entries: Sequence[Entry]) -> None:
    """A learner that has loaded, and is left to run, takes a step every now and then."""
    stalls: list[str] = []
    learners = {entry.process for entry in entries if isinstance(entry.record, Loaded)}
    for learner in sorted(learners):
        own = [entry for entry in entries if learner in (entry.process, getattr(entry.record, "target", None))]
        since: float | None = None
        for entry in own:
            if since is not None and entry.time - since > STALL_S:
                stalls.append(f"{learner} took no step for {entry.time - since:.0f} s or more, from {since:.3f} on")
                since = None
            match entry.record:
                case Loaded() | Trained():
                    since = entry.time
                case Struck(kind="learner_kill" | "learner_forgotten") | Replaced():
                    since = None
    _add(verdict, stalls, "times a learner stood still")


def history(entries: Iterable[Entry], position: int) -> str:
    """Everything that is known of a position, a line each, and every death of Redis meanwhile."""
    lines: list[str] = []
    meanwhile: list[str] = []
    for entry in entries:
        record = entry.record
        if isinstance(record, RedisDied):
            meanwhile.append(f"    {entry.time:.3f}  redis died, {record.lost_bytes} bytes lost")
        elif position == getattr(record, "position", None) or position in getattr(record, "positions", ()):
            lines += [
                *(meanwhile if lines else meanwhile[-1:]),
                f"    {entry.time:.3f}  {entry.process}: {_told(record)}",
            ]
            meanwhile = []
    return "\n".join([*lines, *meanwhile[:1]])


def _told(record: object) -> str:
    match record:
        case Trained(step=step, epoch=epoch):
            return f"learned from at step {step} of epoch {epoch}"
        case Issued(epoch=epoch):
            return f"issued in epoch {epoch}"
        case Leased(attempt=attempt):
            return f"leased, attempt {attempt}"
        case Failed(again=again):
            return "failed, to be tried again" if again else "failed for the last time"
        case Completed(accepted=accepted):
            return "completed" if accepted else "completed, but refused as a duplicate"
    return type(record).__name__.lower()


def _positions(steps: Iterable[Trained]) -> set[int]:
    return {position for taken in steps for position in taken.positions}


def _shown(numbers: Sequence[int], count: int = SHOWN) -> str:
    rest = f" and {len(numbers) - count} more" if len(numbers) > count else ""
    return f"{', '.join(map(str, numbers[:count])) or 'none'}{rest}"
