"""Training that is killed and resumed comes to the same weights, bit for bit, as training in one go."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from areal.launch.records.replay import Span, execute
from areal.launch.records.rundir import read_metrics
from areal.learner.checkpoint import Checkpoint, CheckpointStore

from .lessons import record_run

STEPS = 40
CASES = {
    "full": [],
    "lora": ["model.lora.rank=4"],
    "critic": ["algorithm.advantage={name: gae, critic: {optimizer: {lr: 1e-3}}}"],
    "value head": ["algorithm.advantage={name: gae, critic: {shared: true}}", "model.lora.rank=4"],
    "per_prompt": ["algorithm.advantage={name: per_prompt, min_count: 2, memory: 8}"],
    "minibatches": ["learner.minibatches=3", "algorithm.kl.coefficient=0.05"],
    "schedule": ["learner.optimizer.schedule=cosine", "learner.optimizer.warmup_steps=20"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("runs") / "recorded", STEPS)


def kill_midway(run: Path, overrides: list[str], folder: Path, rng: random.Random) -> None:
    """Replay in a process of its own, which is killed somewhere between its first checkpoint and its end."""
    command = [sys.executable, "-m", "areal", "replay", str(run), *overrides, "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    after = rng.randrange(5, STEPS - 12)
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("step") and int(line.split()[1].partition("/")[0]) >= after and checkpoints(folder):
            break
    time.sleep(rng.uniform(0, 0.03))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, said


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob("step-*"))


def newest(folder: Path) -> Checkpoint:
    checkpoint = CheckpointStore(folder / "checkpoints", keep=2).load_latest()
    assert checkpoint is not None
    return checkpoint


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    assert left.state == right.state and left.parts() == right.parts()
    for name in left.parts():
        ours, theirs = left.read(name), right.read(name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], name
    assert torch.equal(left.rng, right.rng)


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_is_killed_ends_as_one_in_one_go(run: Path, tmp_path: Path, case: str) -> None:
    """The stream has a resume of its own in it, and tokens that are too old."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert execute(run, CASES[case], Span(), whole) == 0
    kill_midway(run, CASES[case], killed, random.Random(case))
    resumed_from = newest(killed).state.step
    assert 0 < resumed_from < STEPS
    assert execute(run, CASES[case], Span(), killed) == 0
    assert_same(newest(whole), newest(killed))
    assert newest(killed).state.step == STEPS
    metrics = [read_metrics(folder / "metrics.jsonl") for folder in (whole, killed)]
    for name in ("step", "version", "loss", "grad_norm", "lr", "kl_behaviour_prox", "staleness_mean", "tokens_too_old"):
        assert [record[name] for record in metrics[0]] == [record[name] for record in metrics[1]], name
    (weights,) = (whole / "model").glob("*model.safetensors")
    assert weights.read_bytes() == (killed / "model" / weights.name).read_bytes()
