"""What a person sees of a run while it goes, and the table at its end.

On a terminal a few lines are kept up to date; anywhere else (a file, CI) plain lines are added. Before the first
step there is nothing to measure: the phases of the start are events, shown with the seconds since it began.
"""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..records.rundir import as_argument
from ..records.tally import Record, number, step_span_s, surviving_steps
from ..records.words import SEEN, TEXTS, Words
from ..screen import safe
from .hangup import enduring_hangup

WINDOW_STEPS = 8  # rates and waits of the learner are over the last steps,
WINDOW_RECORDS = 12  # and those of a worker over its last records, one a second
LOST_AFTER_S = 10.0  # a worker silent for this long is no longer counted
LINE_EVERY_S = 1.0  # steps that follow faster share a line
SPARK_CELLS = 32
MAX_COUNTERS = 8  # of rewards, in the table at the end
SPARKS = "▁▂▃▄▅▆▇█"
LEVEL_STYLES = {"info": "dim", "warning": "yellow", "error": "bold red"}


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours before them: 0:21, 1:02:03."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count(value: float) -> str:
    """Three digits and a unit: 87, 5.1k, 12.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def sparkline(values: list[float], cells: int = SPARK_CELLS) -> str:
    """The values as bars between their least and their greatest, averaged down to so many cells."""
    cells = min(cells, len(values))
    edges = [index * len(values) // cells for index in range(cells + 1)] if cells else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not means or max(means) - min(means) < 1e-9:
        return SPARKS[0] * len(means)
    low, span = min(means), max(means) - min(means)
    return "".join(SPARKS[round((mean - low) / span * (len(SPARKS) - 1))] for mean in means)


@dataclass(slots=True)
class Status:
    """Where the run stands, as far as its records tell."""

    steps: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    workers: dict[str, deque[Record]] = field(default_factory=dict)
    phase: str = "starting"
    words: Words = TEXTS

    def add(self, record: Record) -> None:
        """Take in one record."""
        if record["kind"] == "step":
            last = self.steps[-1] if self.steps else record
            goes_on = record["epoch"] == last["epoch"] and record["step"] > last["step"]
            self.steps.append(record)
            if not goes_on:
                self.steps = surviving_steps(self.steps)
        elif record["kind"] == "eval":
            self.evals.append(record)
        elif record["kind"] == "event":
            self.phase = record["text"]
        elif record["kind"] == "worker":
            self._add_worker(record)

    def _add_worker(self, record: Record) -> None:
        window = self.workers.get(record["worker"])
        if window is None or window[-1]["incarnation"] != record["incarnation"]:
            window = self.workers[record["worker"]] = deque(maxlen=WINDOW_RECORDS)
        window.append(record)
        lost = [name for name, each in self.workers.items() if each[-1]["time"] < record["time"] - LOST_AFTER_S]
        for name in lost:
            del self.workers[name]

    def per_worker_second(self, key: str) -> float:
        """What all workers together add to `key` in a second."""
        spans = [(window[-1], window[0]) for window in self.workers.values()]
        seconds = [(new, old, new["alive_s"] - old["alive_s"]) for new, old in spans]
        return sum(((new[key] - old[key]) / span_s for new, old, span_s in seconds if span_s > 0), 0.0)

    def rollout_waits(self) -> float:
        """The share of their time that the workers have nothing in flight."""
        known = sum(len(window) > 1 for window in self.workers.values())
        return min(max(1 - self.per_worker_second("busy_s") / known, 0.0), 1.0) if known else 0.0

    def per_step_second(self, key: str) -> float:
        """What the last steps add to `key` in a second, waiting included; of `wait_s` the share that is waited."""
        recent = self.steps[-WINDOW_STEPS:]
        span_s = sum(map(step_span_s, recent))
        return sum(number(step, key) for step in recent) / span_s if span_s else 0.0

    def eta_s(self) -> float:
        """Seconds until the last step, at the pace of the newest ones."""
        last = self.steps[-1]
        first = next(step for step in self.steps[-2 * WINDOW_STEPS :] if step["epoch"] == last["epoch"])
        taken = last["step"] - first["step"]
        pace_s: float = (last["time"] - first["time"]) / taken if taken else step_span_s(last)
        return pace_s * int(last["steps"] - last["step"])

    def reward(self) -> float:
        """The mean reward of the last steps."""
        recent = [number(step, "reward_mean") for step in self.steps[-WINDOW_STEPS:]]
        return sum(recent) / len(recent)


def step_line(status: Status) -> str:
    """The newest step in a line of text."""
    step = status.steps[-1]
    total = str(step["steps"])
    staleness = f"{number(step, 'staleness_mean'):.1f}/{number(step, 'staleness_max'):.0f}"
    return "  ".join(
        (
            f"step {step['step']:>{len(total)}}/{total}",
            f"reward {number(step, 'reward_mean'):5.2f}",
            *([] if status.words.draws else [f"len {number(step, 'length_mean'):5.1f}"]),
            f"staleness {staleness:>5}",
            f"{count(status.per_worker_second('tokens_generated')):>5} {status.words.unit}/s",
            f"learner waits {status.per_step_second('wait_s'):4.0%}",
            f"rollout waits {status.rollout_waits():4.0%}",
            f"eta {duration(status.eta_s())}",
        )
    )


def eval_line(record: Record, total: int | None, words: Words = TEXTS) -> str:
    """An evaluation in a line of text."""
    at = f"eval {record['step']:>{len(str(total))}}/{total}" if total else f"eval {record['step']}"
    return (
        f"{at}  {words.score} {number(record, 'accuracy'):.3f}  {words.answers(record)}"
        f"  ({record['samples']} samples, {_versions(record)})"
    )


def _versions(record: Record) -> str:
    low, high = record["version_min"], record["version_max"]
    return f"version {low}" if low == high else f"versions {low}-{high}"


def _panel(status: Status, elapsed_s: float) -> RenderableType:
    if not status.steps:
        return Text.assemble(("● ", "cyan"), f"{status.phase}  ", (f"{elapsed_s:.0f} s", "dim"))
    step = status.steps[-1]
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        Text(f"step {step['step']}/{step['steps']}", style="bold"),
        ProgressBar(total=step["steps"], completed=step["step"], width=32),
        Text(f"{duration(elapsed_s)} elapsed, {duration(status.eta_s())} to go"),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    for label, text in _facts(status):
        grid.add_row(label, text)
    return Group(bar, grid)


def _facts(status: Status) -> list[tuple[str, str | Text]]:
    step = status.steps[-1]
    spark = sparkline([number(each, "reward_mean") for each in status.steps])
    versions = [f"{name} v{window[-1]['version']}" for name, window in sorted(status.workers.items())]
    more = f" and {len(versions) - 4} more" if len(versions) > 4 else ""
    generated = count(status.per_worker_second("tokens_generated"))
    trained = count(status.per_step_second("tokens_trained"))
    accuracy = "not measured yet"
    if status.evals:
        first, last = status.evals[0], status.evals[-1]
        earlier = f"{number(first, 'accuracy'):.3f} → " if first is not last else ""
        accuracy = f"{earlier}{number(last, 'accuracy'):.3f}  ({_versions(last)})"
    answers = f"{number(step, 'length_mean'):.1f} tokens, {number(step, 'truncated_fraction'):.0%} truncated"
    if status.words.draws:
        answers = status.words.answers(status.evals[-1]) if status.evals else "not looked at yet"
    return [
        ("reward", Text.assemble(f"{status.reward():.3f}  ", (spark, "cyan"))),
        ("held out", accuracy),
        ("answers", answers),
        ("staleness", f"mean {number(step, 'staleness_mean'):.2f}, max {number(step, 'staleness_max'):.0f} versions"),
        ("speed", f"{generated} {status.words.unit}/s generated, {trained} {status.words.unit}/s trained"),
        ("waits", f"learner {status.per_step_second('wait_s'):.0%} · rollout {status.rollout_waits():.0%}"),
        ("workers", f"{len(versions)}: {', '.join(versions[:4])}{more} (learner v{step['version']})"),
    ]


def end_table(summary: Record, directory: Path, words: Words = TEXTS) -> list[tuple[str, str]]:
    """What the run came to, in rows of a name and a text."""

    def show(key: str, form: str) -> str:
        return "–" if summary.get(key) is None else format(summary[key], form)

    def change(key: str, form: str) -> str:
        return f"{show(f'{key}_first', form)} → {show(f'{key}_last', form)}"

    early = "" if summary["finished"] else ", stopped before the end"
    counted = {"groups_lost": "lost", "groups_trained_twice": "trained twice", "dead_letters": "dead letters"}
    groups = [f"{summary[key]} {name}" for key, name in counted.items() if summary.get(key) is not None]
    if summary.get("groups_filtered"):
        groups.append(f"{count(summary['groups_filtered'])} passed over")
    tokens = f"{count(summary['tokens_generated'])} generated, {count(summary['tokens_trained'])} trained"
    too_old = summary.get("tokens_too_old")
    older = f"; {count(too_old)} {words.units} were older than staleness.max" if too_old else ""
    held_out = [(words.score, f"{change('eval', '.3f')} held out")]
    if words.draws:
        seen = [(name, f"eval_{key}") for key, name in SEEN.items() if summary.get(f"eval_{key}_first") is not None]
        held_out += [(name.lower(), f"{change(key, '.3g')} held out") for name, key in seen]
    else:
        held_out.append(("length", f"{change('eval_length', '.1f')} tokens held out"))
    return [
        ("steps", f"{summary['steps']} in {duration(summary['wall_s'])}{early}"),
        *(held_out if summary.get("eval_first") is not None else []),
        ("reward", f"{change('reward', '.3f')} in training"),
        ("staleness", f"mean {show('staleness_mean', '.2f')}, max {show('staleness_max', '.0f')} versions{older}"),
        (words.units, f"{tokens}; {show('tokens_per_s', ',.0f')} generated/s"),
        ("busy", f"learner {show('learner_busy_fraction', '.0%')}, rollout {show('rollout_busy_fraction', '.0%')}"),
        ("updates", f"{summary['weight_updates']}, pause {show('update_pause_ms_p50', '.1f')} ms (median)"),
        ("groups", ", ".join([f"{summary['groups_trained']} trained", *groups])),
        *([("rewards", _counted(summary["reward_counters"]))] if summary.get("reward_counters") else []),
        *([("dead", f"areal dead list {as_argument(directory)} tells why")] if summary.get("dead_letters") else []),
        ("files", f"{directory}/"),
    ]


def _counted(counters: dict[str, float]) -> str:
    """What rewards have counted, in a line."""
    shown = [f"{count(value) if value >= 100 else format(value, '.3g')} {name}" for name, value in counters.items()]
    more = f" and {len(shown) - MAX_COUNTERS} more" if len(shown) > MAX_COUNTERS else ""
    return ", ".join(shown[:MAX_COUNTERS]) + more


class Progress:
    """The display of a run: a context that is shown every record, and the summary at the end."""

    def __init__(
        self,
        run: str,
        *,
        words: Words = TEXTS,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
        started_at: float | None = None,
    ) -> None:
        """
        run: the run's name.
        words: how its policy is spoken of.
        console: where to write; standard output by default. Live only if it is a terminal.
        clock: gives Unix seconds.
        started_at: when the run was started, by that clock; now by default.
        """
        self._run = run
        self._console = console or Console(force_terminal=sys.stdout.isatty())
        self._clock = clock
        self._started_at = clock() if started_at is None else started_at
        self._status = Status(words=words)
        self._words = words
        self._guard = threading.Lock()  # the live display is drawn by a thread of its own
        self._line_at = -math.inf
        options = self._console.options
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal and not options.ascii_only:
            self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.be_plain()

    def be_plain(self) -> None:
        """Go on in lines of text, as where there is no terminal."""
        if self._live is not None:
            live, self._live = self._live, None
            with enduring_hangup():
                live.stop()

    def recall(self, records: Iterable[Record]) -> None:
        """Take in records of what has been, without a line for each."""
        with self._guard:
            for record in records:
                self._status.add(record)

    def show(self, record: Record) -> None:
        """Take in a record of any kind."""
        if record["kind"] == "event":
            record = record | {"text": safe(record["text"])}
        with self._guard:
            self._status.add(record)
        if record["kind"] == "event":
            self._print_event(record)
        elif self._live is None and record["kind"] == "eval":
            steps = self._status.steps
            self._print(Text(eval_line(record, steps[-1]["steps"] if steps else None, self._words)))
        elif self._live is None and record["kind"] == "step":
            last = record["step"] >= record["steps"]
            if last or record["time"] >= self._line_at + LINE_EVERY_S:
                self._line_at = record["time"]
                self._print(Text(step_line(self._status)))

    def finish(self, summary: Record, directory: Path) -> None:
        """Take the live display away and print what the run came to."""
        if self._live is not None:
            self._live.transient = True
            self.be_plain()
        self._print(Text(f"\n{self._run}", style="bold"))
        for name, text in end_table(summary, directory, self._words):
            self._print(Text.assemble((f"  {name:<11}", "dim"), text))

    def _draw(self) -> RenderableType:
        with self._guard:
            return _panel(self._status, self._clock() - self._started_at)

    def _print_event(self, record: Record) -> None:
        level = record["level"]
        said = record["text"] if level == "info" else f"{level}: {record['text']}"
        elapsed = f"{max(record['time'] - self._started_at, 0):5.1f} s  "
        self._print(Text.assemble((elapsed, "dim"), (said, LEVEL_STYLES.get(level, ""))))

    def _print(self, text: Text) -> None:
        if self._console.options.ascii_only:
            text = Text(text.plain.replace("→", "->").replace("–", "-").encode("ascii", "replace").decode())
        with enduring_hangup():
            self._console.print(text, soft_wrap=True)
