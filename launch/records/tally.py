"""What the records of a run add up to.

Learner, rollout workers and driver tell of themselves in records: dictionaries of JSON values with a `kind`
(step, eval, worker, final or event) and the `time` at their sender. Everything here is a pure function of them.

    learner  ─step, eval, final─┐
    workers  ─worker────────────┼─▶ Tally ─▶ summary.json, the table at the end
    driver   ─event─────────────┘

A run may be resumed: each `areal run` on its directory is one *invocation*. Step, eval and final records are kept in
metrics.jsonl and handed in again; what the worker records of an invocation came to stands in the summary's
`invocations`, one entry each, and is added up from there.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]

SEEN_IN_IMAGES = ("judge_accuracy", "frechet", "diversity")  # by an evaluation of an image policy
EDGE_STEPS = 3  # reward_first and reward_last are means over this many steps: one batch alone is noise


def number(record: Record, key: str, default: float = 0.0) -> float:
    """The record's value, or the default where it is missing or was not finite (null in metrics.jsonl)."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else default


def identity(record: Record) -> tuple[Any, ...]:
    """What no other record has the same."""
    return record["kind"], record.get("step"), record.get("time")


def numbers(records: Iterable[Record], key: str) -> list[float]:
    """The finite values of `key`."""
    return [value for record in records if math.isfinite(value := number(record, key, math.nan))]


def step_span_s(step: Record) -> float:
    """How long a step took, waiting included."""
    return max(number(step, "step_s"), number(step, "train_s") + number(step, "wait_s"))


def surviving_steps(records: Iterable[Record]) -> list[Record]:
    """The step records that count, in order of their steps.

    A learner that restarts takes some steps again, under a higher epoch. Its first step ends every older lineage:
    of those, only the records before that step count.
    """
    by_epoch: dict[int, dict[int, Record]] = {}
    for record in records:
        if record["kind"] == "step":
            by_epoch.setdefault(record["epoch"], {})[record["step"]] = record
    alive: dict[int, Record] = {}
    end = math.inf
    for epoch in sorted(by_epoch, reverse=True):
        alive |= {step: record for step, record in by_epoch[epoch].items() if step < end}
        end = min(end, *by_epoch[epoch])
    return [alive[step] for step in sorted(alive)]


def surviving_evals(records: Iterable[Record]) -> list[Record]:
    """The eval records that count, in order of their steps; those made before their step was taken again do not."""
    records = list(records)
    starts: dict[int, Record] = {}
    for record in records:
        if record["kind"] == "step":
            start = starts.setdefault(record["epoch"], record)
            starts[record["epoch"]] = min(start, record, key=lambda r: r["step"])
    alive: dict[int, Record] = {}
    for record in records:
        if record["kind"] == "eval" and not any(
            record["time"] < start["time"] and record["step"] >= start["step"] for start in starts.values()
        ):
            alive[record["step"]] = record
    return [alive[step] for step in sorted(alive)]


@dataclass(slots=True)
class _Process:
    """One process of a rollout worker: its newest record, and how long it lived before its first request."""

    latest: Record
    startup_s: float = 0.0


class Tally:
    """Adds up the records of a run; `summary()` may be asked for at any time."""

    def __init__(
        self, started_at: float, *, earlier: Iterable[Record] = (), invocations: Iterable[Record] = ()
    ) -> None:
        """
        started_at: when this invocation began, in Unix seconds.
        earlier: the records in metrics.jsonl from earlier invocations.
        invocations: the `invocations` of the summary that they left.
        """
        self._started_at = started_at
        self._ended_at = started_at
        self._learner: list[Record] = []
        self._final: Record | None = None
        self._invocations = list(invocations)
        for record in earlier:
            self._file(record)
        self._epochs: set[int] = set()
        self._processes: dict[tuple[str, str], _Process] = {}
        self._pauses_ms: list[float] = []
        self._first_step_at: float | None = None
        self._generated: tuple[float, float] | None = None  # time and tokens at the newest worker record,
        self._generated_first: tuple[float, float] | None = None  # at the first step,
        self._generated_last: tuple[float, float] | None = None  # and at the last

    def add(self, record: Record) -> None:
        """Take one record of this invocation, of any kind."""
        self._ended_at = max(self._ended_at, record["time"])
        self._file(record)
        if record["kind"] == "worker":
            self._add_worker(record)
        elif record["kind"] == "step":
            self._epochs.add(record["epoch"])
            if self._first_step_at is None:
                self._first_step_at = record["time"]
            self._generated_first = self._generated_first or self._generated
            self._generated_last = self._generated

    def recall(self, record: Record) -> None:
        """Take a step or eval record of an earlier invocation, beside those in metrics.jsonl."""
        self._file(record)

    def _file(self, record: Record) -> None:
        if record["kind"] == "final":
            self._final = record
        elif record["kind"] in ("step", "eval"):
            self._learner.append(record)
        if record["kind"] == "step":
            self._final = None  # the run went on

    def _add_worker(self, record: Record) -> None:
        process = self._processes.setdefault((record["worker"], record["incarnation"]), _Process(record))
        if process.latest is record or not process.latest["busy_s"]:  # its first record, or nothing asked of it yet
            process.startup_s = record["alive_s"] - record["busy_s"]
        process.latest = record
        self._pauses_ms += record.get("update_pause_ms") or []
        self._generated = (record["time"], self._sum_processes("tokens_generated"))

    def _sum_processes(self, key: str) -> float:
        return sum(number(process.latest, key) for process in self._processes.values())

    def summary(self) -> Record:
        """The run so far, all its invocations together, as it goes into summary.json.

        - Learner numbers are over the steps of the lineage that lives; staleness is weighted by tokens.
        - reward_first, reward_last: mean reward over the first and the last three steps.
        - groups_trained_twice: prompts that more than one of those steps learned from, by their own record.
        - groups_lost, dead_letters, outstanding: null until the learner has said them at its end.
        - rollout_busy_fraction: of the time from each worker's first request on; learner_busy_fraction: train_s
          over the time of the steps.
        - time_to_first_step_s, tokens_per_s (generated, from the first step to the last) and update_pause_ms_p50
          are of the newest invocation, everything else of all; restarts: of workers and learner, unplanned ones.
        - reward_counters: what rewards have counted, by name (areal.rewards.counters); empty where none does.
        - A number for which there is no record yet is null.
        """
        here = self._invocation()
        invocations = [*self._invocations, here]
        alive_s = sum(number(each, "rollout_alive_s") for each in invocations)
        busy_s = sum(number(each, "rollout_busy_s") for each in invocations)
        return {
            **self._training(),
            **self._evaluation(),
            "wall_s": sum(number(each, "wall_s") for each in invocations),
            "time_to_first_step_s": None if self._first_step_at is None else self._first_step_at - self._started_at,
            "tokens_generated": int(sum(number(each, "tokens_generated") for each in invocations)),
            "tokens_per_s": self._tokens_per_s(),
            "rollout_busy_fraction": busy_s / alive_s if alive_s else None,
            "weight_updates": int(sum(number(each, "weight_updates") for each in invocations)),
            "update_pause_ms_p50": median(self._pauses_ms) if self._pauses_ms else None,
            "update_pause_ms_max": max(numbers(invocations, "update_pause_ms_max"), default=None),
            "reward_counters": _added(invocations, "reward_counters"),
            "restarts": int(sum(number(each, "restarts") for each in invocations)),
            "invocations": invocations,
        }

    def _invocation(self) -> Record:
        """What this invocation adds to the run beside the records in metrics.jsonl."""
        startup_s = sum(process.startup_s for process in self._processes.values())
        worker_restarts = len(self._processes) - len({worker for worker, _ in self._processes})
        return {
            "started_at": self._started_at,
            "wall_s": self._ended_at - self._started_at,
            "tokens_generated": int(self._sum_processes("tokens_generated")),
            "rollout_busy_s": self._sum_processes("busy_s"),
            "rollout_alive_s": self._sum_processes("alive_s") - startup_s,
            "weight_updates": int(self._sum_processes("weight_updates")),
            "update_pause_ms_max": max(self._pauses_ms, default=None),
            "reward_counters": _added((each.latest for each in self._processes.values()), "reward_counters"),
            "restarts": worker_restarts + max(len(self._epochs) - 1, 0),
        }

    def _training(self) -> Record:
        steps = surviving_steps(self._learner)
        rewards = numbers(steps, "reward_mean")
        tokens = sum(numbers(steps, "tokens_trained"))
        span_s = sum(map(step_span_s, steps))
        stale = sum(number(step, "staleness_mean") * number(step, "tokens_trained") for step in steps)
        final = self._final or {}
        return {
            "steps": steps[-1]["step"] if steps else 0,
            "version": steps[-1]["version"] if steps else None,
            "finished": bool(final.get("finished", False)),
            "groups_trained": final.get("groups_trained", int(sum(numbers(steps, "groups")))),
            "groups_trained_twice": _repeated(prompt for step in steps for prompt in step.get("prompt_ids", [])),
            **{key: final.get(key) for key in ("groups_filtered", "groups_lost", "dead_letters", "outstanding")},
            "reward_first": fmean(rewards[:EDGE_STEPS]) if rewards else None,
            "reward_last": fmean(rewards[-EDGE_STEPS:]) if rewards else None,
            "staleness_mean": stale / tokens if tokens else None,
            "staleness_max": max(numbers(steps, "staleness_max"), default=None),
            "tokens_trained": int(tokens),
            "tokens_too_old": int(sum(numbers(steps, "tokens_too_old"))),
            "learner_busy_fraction": sum(numbers(steps, "train_s")) / span_s if span_s else None,
        }

    def _evaluation(self) -> Record:
        evals = surviving_evals(self._learner)
        first, last = (evals[0], evals[-1]) if evals else ({}, {})
        return {
            "eval_first": first.get("accuracy"),
            "eval_last": last.get("accuracy"),
            "eval_length_first": first.get("length_mean"),
            "eval_length_last": last.get("length_mean"),
            **{f"eval_{key}_first": first[key] for key in SEEN_IN_IMAGES if key in first},
            **{f"eval_{key}_last": last[key] for key in SEEN_IN_IMAGES if key in last},
        }

    def _tokens_per_s(self) -> float | None:
        """Between the worker records just before the first and the last step."""
        if self._generated_first is None or self._generated_last is None:
            return None
        (since, before), (until, after) = self._generated_first, self._generated_last
        return (after - before) / (until - since) if until > since else None


def _added(records: Iterable[Record], key: str) -> dict[str, float]:
    """The sums of what is counted by name under `key`."""
    sums: dict[str, float] = {}
    for counted in [record.get(key) or {} for record in records]:
        for name in counted:
            sums[name] = sums.get(name, 0.0) + number(counted, name)
    return sums


def _repeated(prompts: Iterable[int]) -> int:
    """How often a prompt comes that was there before."""
    counts = Counter(prompts)
    return counts.total() - len(counts)
