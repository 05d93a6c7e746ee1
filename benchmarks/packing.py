"""How evenly a batch is cut into micro-batches: ours and algorithm 1 of arXiv 2505.24298, on the same lengths.

    python benchmarks/packing.py            prints a table, writes benchmarks/results/packing.json

Lengths are lognormal (median 200 or 2,000 tokens, σ 0.8, at most the budget), drawn anew 200 times. What is counted: passes;
the share of the budget that the fullest of them takes beyond the mean (with several ranks the others wait that long); the
share of passes that could have been spared against the least number possible; and the time that the cutting itself takes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from areal.learner.packing import split_by_tokens

RESULTS = Path(__file__).parent / "results" / "packing.json"
CASES = {"128 short": (128, 200, 16_384), "512 short": (512, 200, 16_384), "1,024 long": (1024, 2000, 32_768)}
"""Trajectories, median length, and tokens in a pass."""

Split = Callable[[Sequence[int], int], list[list[int]]]


def algorithm_1(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Algorithm 1 of arXiv 2505.24298: longest first, into the micro-batch with room that has the fewest sequences."""
    parts: list[list[int]] = []
    loads: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [i for i, load in enumerate(loads) if load + lengths[index] <= budget]
        if fits:
            chosen = min(fits, key=lambda i: len(parts[i]))
        else:
            parts.append([])
            loads.append(0)
            chosen = len(parts) - 1
        parts[chosen].append(index)
        loads[chosen] += lengths[index]
    return parts


WAYS: dict[str, Split] = {"ours": split_by_tokens, "algorithm 1": algorithm_1}


def measure(case: str, draws: int) -> dict[str, dict[str, float]]:
    """By way: the medians over so many draws."""
    count, median, budget = CASES[case]
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for _ in range(draws):
        lengths = np.minimum(rng.lognormal(np.log(median), 0.8, count), budget).astype(int).tolist()
        least = -(-sum(lengths) // budget)
        for way, split in WAYS.items():
            began = time.perf_counter()
            parts = split(lengths, budget)
            seconds = time.perf_counter() - began
            loads = [sum(lengths[i] for i in part) for part in parts]
            assert max(loads) <= budget and sum(map(len, parts)) == count
            excess = (max(loads) - statistics.mean(loads)) / budget
            found[way].append((len(parts), excess, len(parts) / least - 1, 1e3 * seconds))
    names = ("passes", "excess", "spare", "ms")
    return {
        way: dict(zip(names, map(statistics.median, zip(*rows, strict=True)), strict=True))
        for way, rows in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    table = Table("case", "way", "passes", "fullest above the mean", "more than the least", "ms")
    results = {case: measure(case, options.draws) for case in CASES}
    for case, ways in results.items():
        for way, row in ways.items():
            shares = (f"{100 * row['excess']:.1f}%", f"{100 * row['spare']:.1f}%")
            table.add_row(case, way, f"{row['passes']:.0f}", *shares, f"{row['ms']:.2f}")
    Console().print(table)
    result = {"command": "python benchmarks/packing.py", "draws": options.draws, "cases": results}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
