"""How much of a step the learner waits for groups while groups are waiting for it.

    python benchmarks/waiting.py            prints a table, writes benchmarks/results/waiting.json

The learner of the quickstart's model takes steps on 8 groups of 8 answers (lognormal with mean 200, at most 1,000 tokens,
after prompts of 50), off a real Redis. A process of its own, in the rollout workers' stead, answers each prompt at once. Of
each step that a full batch waited for when the one before it ended, the share is measured that went by until its groups
were in hand; fetching and decoding run ahead of it in a thread.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from areal.broker.bulletin import Bulletin
from areal.broker.client import connect
from areal.broker.config import BrokerConfig
from areal.broker.keys import TRAIN
from areal.broker.server import EmbeddedRedis
from areal.broker.tickets import Tickets
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory

RESULTS = Path(__file__).parent / "results" / "waiting.json"
CONFIGS = Path(__file__).parents[1] / "configs"
RUN = "waiting"
GROUPS, GROUP_SIZE, PROMPT, LONGEST = 8, 8, 50, 1000
VOCABULARY = 16


def answer(prompt: Prompt, rng: np.random.Generator) -> Group:
    """Random tokens."""
    answers = []
    for length in np.clip(rng.lognormal(np.log(200) - 0.7**2 / 2, 0.7, prompt.group_size), 1, LONGEST).astype(int):
        versions = np.array([NOT_AN_ACTION] * PROMPT + [prompt.min_version] * length, np.int32)
        logprobs = np.where(versions >= 0, -np.log(VOCABULARY), 0.0).astype(np.float32)
        tokens = rng.integers(0, VOCABULARY, PROMPT + length).astype(np.int32)
        answers.append(TokenTrajectory(tokens, versions, logprobs, float(rng.random())))
    return Group(prompt.id, tuple(answers), "crowd")


def answer_all(url: str) -> None:
    """Until it is ended."""
    tickets, rng = Tickets(connect(url), RUN, TRAIN, BrokerConfig()), np.random.default_rng(0)
    while True:
        for lease in tickets.lease("crowd", count=GROUPS, timeout_s=1.0):
            tickets.complete(lease, answer(lease.prompt, rng))


def train(url: str, directory: Path, steps: int) -> list[dict[str, Any]]:
    """The records of a learner's steps."""
    from areal.launch.models.path import resolve_model
    from areal.learner.algorithm.config import AlgorithmConfig
    from areal.learner.config import (
        CheckpointConfig,
        DatasetConfig,
        EvaluationConfig,
        LearnerConfig,
        ModelConfig,
        StalenessConfig,
    )
    from areal.learner.learner import Learner
    from areal.learner.settings import LearnerSettings

    settings = LearnerSettings(
        run=RUN,
        directory=directory,
        model=ModelConfig(path=str(resolve_model("models/sort", CONFIGS))),
        dataset=DatasetConfig(source="sort"),
        learner=LearnerConfig(steps=steps, groups_per_step=GROUPS, tokens_per_microbatch=4096),
        algorithm=AlgorithmConfig(),
        staleness=StalenessConfig(),
        evaluation=EvaluationConfig(every_steps=0),
        checkpoint=CheckpointConfig(every_steps=20),
        broker=BrokerConfig(),
        group_size=GROUP_SIZE,
        temperature=1.0,
        seed=0,
    )
    client = connect(url)
    Learner(settings, client).run()
    records, _ = Bulletin(client, RUN).read("0", timeout_s=0.01, count=10 * steps + 100)
    return [record for record in records if record["kind"] == "step"]


def measure(steps: int) -> list[dict[str, Any]]:
    """The steps that a full batch waited for."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder) / "redis")
        url = server.start()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "AREAL_REDIS": url}
        crowd = subprocess.Popen([sys.executable, __file__, "--crowd"], env=environment)
        try:
            records = train(url, Path(folder) / "run", steps)
        finally:
            crowd.kill()
            crowd.wait()
            server.stop()
    return [later for step, later in pairwise(records) if step["groups_waiting"] >= GROUPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--crowd", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        answer_all(os.environ["AREAL_REDIS"])
    steps = measure(options.steps)
    shares = [step["wait_s"] / step["step_s"] for step in steps]
    row = {
        "steps": len(steps),
        "step_s": median(step["step_s"] for step in steps),
        "wait_s": median(step["wait_s"] for step in steps),
        "decode_s": median(step["decode_s"] for step in steps),
        "share": median(shares),
        "largest_share": max(shares),
    }
    table = Table("steps", "a step, ms", "waited, ms", "decoding beside it, ms", "share waited", "largest")
    seconds = [f"{1000 * row[name]:.2f}" for name in ("step_s", "wait_s", "decode_s")]
    table.add_row(str(row["steps"]), *seconds, f"{row['share']:.2%}", f"{row['largest_share']:.2%}")
    Console().print(table)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("torch", "redis")}
    result = {"command": "python benchmarks/waiting.py", "machine": machine, "versions": versions, "result": row}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
