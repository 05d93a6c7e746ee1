"""A run whose learner has taken some steps, for the commands that make models of its checkpoints."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from areal.launch.config import RunConfig, to_yaml
from areal.learner.best import BestWeights
from areal.learner.checkpoint import CheckpointStore, LearnerState, Snapshot
from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.ranks import ALONE
from areal.learner.token_policy import TokenPolicy

from ..learner.test_merge import own_logits
from ..learner.test_trainer import save_tiny_llama
from .stage import make_directory

LORA = LoraConfig(rank=4, alpha=8)


class Trained:
    """runs/mine, whose learner has taken some steps: its policy at each, and the checkpoints of the last two."""

    def __init__(self, here: Path, *steps: int, lora: LoraConfig | None = None) -> None:
        start = save_tiny_llama(here / "start")
        (start / "tokenizer.json").write_text("{}")
        self.model = ModelConfig(path="start", lora=lora)
        self.path = here / "runs" / "mine"
        self.policy = TokenPolicy(start, self.model)
        parts = {"dataset": {"source": "sort"}, "rewards": {"functions": [{"name": "sort"}]}}
        config = RunConfig.model_validate({"run": "mine", "model": self.model.model_dump(), **parts})
        make_directory(self.path, config=to_yaml(config))
        self.store = CheckpointStore(self.path / "checkpoints", keep=2, archive_every=20)
        self.weights: dict[int, dict[str, Tensor]] = {}
        for step in steps:
            self.take(step)

    def take(self, step: int) -> None:
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.weights[step] = ALONE.owned(self.policy.weights())
        state = LearnerState(step, step, [], 1)
        snapshot = Snapshot(state, self.weights[step], {}, {}, torch.get_rng_state())
        self.store.save(snapshot, permit=lambda: None, done=lambda: None)
        self.store.wait()

    def judged(self, step: int, score: float, *, keep: int) -> None:
        """Have the weights of that step evaluated."""
        best = BestWeights(self.store, self.path / "checkpoints", keep=keep, epoch=1, permit=lambda: None)
        best.put_aside(LearnerState(step, step, [], 1), self.weights[step])
        best.judge(step, score)

    def at(self, step: int) -> Tensor:
        """The logits of the policy as it was at that step."""
        self.policy.load_weights(self.weights[step])
        return own_logits(self.policy)

    def evaluated(self, *accuracies: tuple[int, float | None]) -> None:
        records: list[dict[str, Any]] = [{"kind": "step", "step": 1, "epoch": 1, "time": 0.0}]
        records += [{"kind": "eval", "step": step, "time": 1.0 + step, "accuracy": value} for step, value in accuracies]
        (self.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-5, atol=1e-5)
