"""A recorded stream of groups, made up, and the run directory that holds it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from areal.broker.trajectory import NOT_AN_ACTION, Group, TokenTrajectory
from areal.learner.recording import Lesson, Recording

from .test_trainer import VOCAB, save_tiny_llama

GROUPS, GROUP_SIZE, NUM_ROWS = 4, 3, 8
RESUMED_AT, GAP = 9, 3
"""The step before which the run was resumed, and by how many versions its weights were renamed."""


def lesson(step: int) -> Lesson:
    """Groups of random tokens, up to three versions old; even tokens are paid for."""
    rng = np.random.default_rng(step)
    version = step - 1 + (GAP if step >= RESUMED_AT else 0)
    resumes = [(RESUMED_AT - 1 + GAP, GAP)] if step >= RESUMED_AT else []
    groups = [_group(rng, GROUPS * (step - 1) + place, version) for place in range(GROUPS)]
    return Lesson(step, version, resumes, groups)


def _group(rng: np.random.Generator, prompt_id: int, version: int) -> Group:
    trajectories = []
    for _ in range(GROUP_SIZE):
        length = int(rng.integers(2, 9))
        sampled = np.sort(rng.integers(max(0, version - 3), version + 1, length))
        versions = np.concatenate([[NOT_AN_ACTION] * 2, sampled]).astype(np.int32)
        logprobs = np.where(versions >= 0, rng.normal(-np.log(VOCAB), 0.1, 2 + length), 0.0).astype(np.float32)
        tokens = rng.integers(0, VOCAB, 2 + length).astype(np.int32)
        reward = float(np.mean(tokens[2:] % 2 == 0))
        trajectories.append(TokenTrajectory(tokens, versions, logprobs, reward, {"even": reward}))
    return Group(prompt_id, tuple(trajectories), "w", started_at=1.5, finished_at=2.5)


def record_run(folder: Path, steps: int) -> Path:
    """A run directory as a learner leaves it that has recorded so many steps."""
    folder.mkdir()
    save_tiny_llama(folder / "start")
    rows = [json.dumps({"prompt": f"{number}"}) + "\n" for number in range(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("".join(rows))
    config: dict[str, Any] = {
        "run": folder.name,
        "seed": 3,
        "model": {"path": "start"},
        "dataset": {"source": "rows.jsonl", "eval_size": 0},
        "rewards": {"functions": [{"name": "sort"}]},
        "learner": {
            "steps": steps,
            "groups_per_step": GROUPS,
            "tokens_per_microbatch": 64,
            "optimizer": {"lr": 1e-3, "weight_decay": 0.01},
        },
        "staleness": {"max": 2},
        "checkpoint": {"every_steps": 3},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    recording = Recording(folder / "groups")
    for step in range(1, steps + 1):
        recording.add(lesson(step), permit=lambda: None)
    recording.wait()
    return folder
