"""What a checkpoint costs training: written in the background, against a synchronous save of the same state.

    python benchmarks/checkpoint.py            prints a table, writes benchmarks/results/checkpoint.json

A Llama of the shapes of SmolLM2-135M (random weights, float32) with the moments of AdamW, 1.6 GB, trained on one thread. A
window is a few steps, in which a write should end. Windows with a checkpoint at their start, windows without one, and
synchronous saves (write, fsync, checksum, rename; no copy) take turns.

Of each step is measured how long the training thread stood still (for the copy, for locks that the writer held), how long it
ran, and how long it was ready to run and had no core, as the kernel counts that (schedstat). The *stall* is how much longer
it stood in a window with a checkpoint than in one without. It is *slower* by how much longer it ran: a writer beside it
takes caches, memory bandwidth and, where two cores are one with two threads, arithmetic. Waiting for a core is told apart:
with one for the writer there is none, and on a busy machine it measures the neighbours. The copy of the weights is in every
step, as it is made to publish them.
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from areal.learner.checkpoint import CheckpointStore, LearnerState, Snapshot
from areal.learner.config import OptimizerConfig
from areal.learner.optimizer import Optimizer
from areal.learner.ranks import ALONE
from areal.learner.saved import folder_of, give_name, seal
from areal.learner.shards import write_shards

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of this thread: on a core, standing still, and ready but without a core."""

    ran: float
    stood: float
    queued: float


def total(spent: list[Spent]) -> Spent:
    """All of them together."""
    return Spent(*map(sum, zip(*map(astuple, spent), strict=True)))


def spent(do: Callable[[], None]) -> Spent:
    """What it takes."""
    (ran, queued), began = _scheduled(), time.perf_counter()
    do()
    wall = time.perf_counter() - began
    ran_to, queued_to = _scheduled()
    ran, queued = ran_to - ran, queued_to - queued
    return Spent(ran, max(0.0, wall - ran - queued), queued)


def _scheduled() -> tuple[float, float]:
    """Seconds for which this thread has run, and has waited for a core, so far."""
    ran, queued, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return int(ran) / 1e9, int(queued) / 1e9


class Training:
    """A model that learns nothing in particular, a step at a time, and is saved in a folder."""

    def __init__(self, tokens: int, folder: Path) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._model = LlamaForCausalLM(LlamaConfig(**SMOLLM2))
        self._tokens = torch.randint(0, SMOLLM2["vocab_size"], (1, tokens))
        self._optimizer = Optimizer(self._model.parameters(), OptimizerConfig(), total_steps=10**6)
        self._folder = folder
        self._store = CheckpointStore(folder / "checkpoints", keep=1)
        self._optimizer.before_update(self._await_copy)
        self._waited = 0.0
        self._step = 0
        self._weights: dict[str, Tensor] = {}

    def step(self) -> None:
        """Forward, backward, update, and a copy of the weights."""
        self._model(input_ids=self._tokens, labels=self._tokens).loss.backward()
        self._optimizer.step(self._step)
        self._step += 1
        self._weights = ALONE.owned(dict(self._model.named_parameters()))

    def window(self, size: int) -> list[Spent]:
        """So many steps."""
        return [spent(self.step) for _ in range(size)]

    def window_with_checkpoint(self, size: int) -> tuple[list[Spent], dict[str, float]]:
        """So many steps with a checkpoint before them; how long it was waited for, and until it was durable."""
        self._waited, began = 0.0, time.perf_counter()
        durable: list[float] = []

        def done() -> None:
            durable.append(time.perf_counter() - began)

        save = spent(lambda: self._store.save(self._snapshot(), permit=lambda: None, done=done))
        steps = self.window(size)
        took = time.perf_counter() - began
        self._store.wait()
        return [save, *steps], {"waited": self._waited, "durable": durable[0], "beside": min(1.0, took / durable[0])}

    def save_synchronously(self) -> None:
        """What a checkpoint does, with training standing still, from where the tensors are."""
        snapshot, aside = self._snapshot(), self._folder / "aside"
        parts = {"weights": snapshot.weights, "optimizer": snapshot.optimizer, "random": {"rng": snapshot.rng}}
        for part, tensors in parts.items():
            write_shards(aside / part, tensors)
        seal(aside, {"step": self._step})
        give_name(aside, folder_of(self._folder / "synchronous", 1))

    def _snapshot(self) -> Snapshot:
        state = LearnerState(self._step, self._step, [], 0)
        return Snapshot(state, self._weights, self._optimizer.state(), {}, torch.get_rng_state())

    def _await_copy(self) -> None:
        began = time.perf_counter()
        self._store.await_copy()
        self._waited += time.perf_counter() - began


def measure(training: Training, rounds: int, size: int) -> list[dict[str, Any]]:
    """By round: windows and a save; before them a round that does not count, in which memory is first used."""
    found = []
    for number in range(-1, rounds):
        before = training.window(size)
        with_checkpoint, writing = training.window_with_checkpoint(size)
        synchronous = spent(training.save_synchronously)
        plain, beside = total(before + training.window(size)), total(with_checkpoint)
        more = {name: getattr(beside, name) - getattr(plain, name) / 2 for name in ("stood", "ran", "queued")}
        save = {"save": synchronous.ran + synchronous.stood, "save_queued": synchronous.queued}
        if number >= 0:
            found.append(more | save | writing | {"step": plain.ran / 2 / size, "step_queued": plain.queued / 2 / size})
    return found


def show(made: dict[str, float]) -> None:
    save = made["save"]
    table = Table("", "seconds", "of a save", "without a core", title="medians")
    table.add_row("a step without a checkpoint", f"{made['step']:.2f}", "", f"{made['step_queued']:.2f}")
    table.add_row("a synchronous save", f"{save:.2f}", "100%", f"{made['save_queued']:.2f}")
    table.add_row("in the background: stall", f"{made['stood']:.3f}", f"{made['stood'] / save:.1%}", "")
    table.add_row("  of which for the copy", f"{made['waited']:.4f}", f"{made['waited'] / save:.1%}", "")
    table.add_row(
        "  steps beside it slower", f"{made['ran']:.2f}", f"{made['ran'] / save:.1%}", f"{made['queued']:.2f}"
    )
    table.add_row("  until it is durable", f"{made['durable']:.2f}", "", "")
    Console().print(table, f"{made['beside']:.0%} of the writing was beside the steps of the window")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="(default 6)")
    parser.add_argument("--steps", type=int, default=3, help="of a window (default 3)")
    parser.add_argument("--tokens", type=int, default=96, help="of a step's only sequence (default 96)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(Training(options.tokens, Path(folder)), options.rounds, options.steps)
    made = {name: median(each[name] for each in rounds) for name in rounds[0]}
    show(made)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[1]}
    versions = {name: version(name) for name in ("torch", "safetensors")} | {"python": platform.python_version()}
    result = {"command": "python benchmarks/checkpoint.py", "machine": machine, "versions": versions}
    options.output.write_text(json.dumps(result | {"medians_s": made, "rounds_s": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
