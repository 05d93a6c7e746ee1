"""RL of a consistency model through the broker, against itself in step, and against a plain loop in one process.

    python benchmarks/rlcm.py lag                how much staleness costs, by objective
    python benchmarks/rlcm.py plain              how long a reward takes to reach, against plain_rlcm.py
    python benchmarks/rlcm.py last-step          what the reference's last, noiseless step costs

The task is the compression of digits (configs/rlcm_digits_compress.yaml). Each cell is a process of its own, `areal run` or
plain_rlcm.py. The adapters that a run publishes are kept and evaluated after it has ended, on 400 images of the same noise.
Wall time counts from the moment that the first image of the first step is begun; CPU time is that of all of a run's
processes from that moment on. Cells and seeds are interleaved, since a machine's speed drifts: compare medians and ratios.

In `plain`, areal runs at η = 1 with π_prox interpolated, and the plain loop with one thread and with two, the better of
which counts. First the reward is the JPEG's size alone; then each judgement takes 0.2 s longer, as a server's would, and
areal runs at η = 2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from async_vs_sync import machine
from plain_rlcm import DIGITS, STEPS, evaluate

from areal.denoising.adapter import Adapter
from areal.denoising.config import DenoisingConfig
from areal.denoising.models import load_image_model

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "rlcm_digits_compress.yaml"
GOAL = -0.50
MARK = "AREAL_BENCHMARK_RUN"
LATENCIES = {"late": (0.2, 2)}
"""Seconds that a judgement takes, and areal's η there."""
POLL_S = 0.5

OBJECTIVES = {
    "decoupled": {},
    "behaviour": {"algorithm.proximal": "behaviour"},
    "gradient": {"algorithm.objective.name": "reinforce", "algorithm.behaviour.action": "off"},
}
GROUPS_PER_STEP = 10
Point = tuple[int, float, float, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: what it took to reach GOAL (None if it did not), and its curve of (step, wall s, CPU s, reward)."""

    name: str
    seed: int
    to_goal_s: float | None
    to_goal_cpu_s: float | None
    step_s: float
    final: float
    staleness_mean: float | None
    curve: list[Point]


def lag_cells(seed: int, options: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    yield run_areal("sync", seed, {"staleness.max": 0}, options, folder)
    for eta in (1, 4, 10):
        for name, overrides in OBJECTIVES.items():
            yield run_areal(f"eta{eta}-{name}", seed, {"staleness.max": eta, **overrides}, options, folder)


def plain_cells(seed: int, options: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    fast = {"algorithm.proximal": "interpolate"}
    yield run_areal("areal", seed, {"staleness.max": 1, **fast}, options, folder)
    for threads in (1, 2):
        yield run_plain(f"plain-{threads}", seed, {"threads": threads, "steps": options.steps}, folder)
    for name, (latency_s, eta) in LATENCIES.items():
        judged = late_reward(latency_s, at_once=GROUPS_PER_STEP * (eta + 1))
        yield run_areal(f"areal-{name}", seed, {"staleness.max": eta, **fast, **judged}, options, folder)
        yield run_plain(f"plain-{name}", seed, {"threads": 2, "latency": latency_s, "steps": options.steps}, folder)


def late_reward(latency_s: float, *, at_once: int) -> dict[str, Any]:
    """A server's judgement of so many groups at once; their images are all under way then."""
    function = f"{{name: '{HERE / 'late_reward.py'}:late_compressibility', kwargs: {{latency_s: {latency_s}}}}}"
    return {
        "rewards.functions": f"[{function}]",
        "rewards.workers": at_once,
        "rollout.max_concurrent": 16 * at_once,
        "denoising.max_batch": 160,
    }


def last_step_cells(seed: int, _: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    """At a higher learning rate and for fewer steps: neither has come to its end then."""
    settings = {"lr": 3e-4, "steps": 25, "threads": 1}
    yield run_plain("actions-3", seed, settings, folder)
    yield run_plain("actions-4", seed, {**settings, "last-step": None}, folder)


PARTS = {"lag": lag_cells, "plain": plain_cells, "last-step": last_step_cells}


def run_areal(name: str, seed: int, overrides: dict[str, Any], options: argparse.Namespace, folder: Path) -> Cell:
    """Train by `areal run`, then evaluate the versions it published."""
    settings = {
        "run": f"{name}-{seed}",
        "directory": folder,
        "seed": seed,
        "dataset.seed": seed,
        "learner.steps": options.steps,
        "evaluation.every_steps": 0,
        "broker.weights_kept": options.steps + 2,
        **overrides,
    }
    command = [
        sys.executable,
        "-m",
        "areal",
        "run",
        str(CONFIG),
        *(f"{key}={value}" for key, value in settings.items()),
    ]
    times, spent = watched(command)
    run = folder / f"{name}-{seed}"
    steps = [record for record in map(json.loads, (run / "metrics.jsonl").open()) if record["kind"] == "step"]
    began = steps[0]["started_at"]
    cpu_began = at(times, spent, began)
    model: Any = load_image_model(str(DIGITS), DenoisingConfig(steps=STEPS))
    adapter = Adapter(model.network, rank=8, alpha=16, targets="all-linear")
    curve: list[Point] = []
    for step in steps:
        if step["step"] % options.eval_every == 0:
            adapter.load_folder(next((run / "weights").glob(f"{step['step']:08d}-*")))
            cpu_s = at(times, spent, step["time"]) - cpu_began
            curve.append((step["step"], step["time"] - began, cpu_s, evaluate(model)))
    return cell(name, seed, curve, statistics.mean(step["staleness_mean"] for step in steps))


def watched(command: list[str]) -> tuple[list[float], list[float]]:
    """Run it; the CPU seconds of all of its processes, dead ones too, by the clock."""
    mark, times, spent = uuid.uuid4().hex, [], []
    used: dict[psutil.Process, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, MARK: mark}) as process:
        while process.poll() is None:
            for each in psutil.process_iter():
                if each in used or marked(each, mark):
                    used[each] = cpu_s(each, used.get(each, 0.0))
            times.append(time.time())
            spent.append(sum(used.values()))
            time.sleep(POLL_S)
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}"
    return times, spent


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


def cpu_s(process: psutil.Process, otherwise: float) -> float:
    try:
        found = process.cpu_times()
        return float(found.user + found.system)
    except psutil.Error:
        return otherwise


def at(times: list[float], values: list[float], when: float) -> float:
    """The value at that time, between two that were seen."""
    place = min(max(bisect_right(times, when), 1), len(times) - 1)
    share = (when - times[place - 1]) / (times[place] - times[place - 1])
    return values[place - 1] + share * (values[place] - values[place - 1])


def run_plain(name: str, seed: int, settings: dict[str, Any], folder: Path) -> Cell:
    out = folder / f"{name}-{seed}.json"
    flags = [text for key, value in settings.items() for text in (f"--{key}", *([] if value is None else [str(value)]))]
    script = [sys.executable, str(HERE / "plain_rlcm.py")]
    subprocess.run([*script, "--seed", str(seed), "--out", str(out), *flags], check=True, timeout=600)
    lines = json.loads(out.read_text())["lines"]
    return cell(name, seed, [(line["step"], line["wall_s"], line["cpu_s"], line["reward"]) for line in lines], None)


def cell(name: str, seed: int, curve: list[Point], staleness: float | None) -> Cell:
    to_goal = next(((wall, cpu) for _, wall, cpu, reward in curve if reward >= GOAL), (None, None))
    step_s = (curve[-1][1] - curve[0][1]) / (curve[-1][0] - curve[0][0])
    return Cell(name, seed, *to_goal, step_s=step_s, final=curve[-1][3], staleness_mean=staleness, curve=curve)


def medians(cells: list[Cell]) -> dict[str, dict[str, float | None]]:
    """By name; what not all seeds reached has none."""
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(each.name for each in cells):
        group = [each for each in cells if each.name == name]
        values = {key: [getattr(each, key) for each in group] for key in Cell.__slots__[2:7]}
        found[name] = {key: None if None in each else statistics.median(each) for key, each in values.items()}
    return found


def table(cells: list[Cell]) -> str:
    """A line for each name."""

    def shown(value: float | None, form: str) -> str:
        return f"{'–' if value is None else format(value, form):>9}"

    head = f"{'':16}{'wall s':>9}{'CPU s':>9}{'s/step':>9}{'final':>9}{'lag':>9}   to {GOAL:g} kB, medians"
    forms = (".2f", ".2f", ".3f", ".3f", ".1f")
    return "\n".join(
        [head, *(f"{name:16}" + "".join(map(shown, row.values(), forms)) for name, row in medians(cells).items())]
    )


def ratios(cells: list[Cell]) -> dict[str, float]:
    """Of the wall time to GOAL, areal's by the plain loop's."""
    found = {name: row["to_goal_s"] for name, row in medians(cells).items()}
    plain = [found[name] for name in ("plain-1", "plain-2") if found.get(name)]
    pairs = {"areal": min(plain, default=None)} | {f"areal-{name}": found.get(f"plain-{name}") for name in LATENCIES}
    return {name: found[name] / other for name, other in pairs.items() if other and found.get(name)}  # type: ignore[operator]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--eval-every", type=int, default=1)
    parser.add_argument("--out", type=Path, help="benchmarks/results/rlcm_PART.json by default")
    options = parser.parse_args()
    out = options.out or HERE / "results" / f"rlcm_{options.part.replace('-', '_')}.json"
    torch.set_num_threads(1)
    about, cells = machine(), []
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for each in PARTS[options.part](seed, options, Path(name)):
                cells.append(each)
                print(f"{each.name} seed {each.seed}: {each.step_s:.3f} s a step, {each.final:.3f} kB", flush=True)
            print(f"{table(cells)}\n", flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/rlcm.py", *sys.argv[1:]]),
        "machine": about,
        "medians": medians(cells),
        "ratios": ratios(cells),
        "cells": [asdict(each) for each in cells],
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(ratios(cells)))


if __name__ == "__main__":
    main()
