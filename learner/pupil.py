"""What is trained: the policy, and with it everything that its next step depends on and a checkpoint therefore holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..broker.trajectory import Group, TokenTrajectory
from .algorithm.config import AlgorithmConfig, Gae
from .algorithm.running import Key
from .checkpoint import LearnerState, Snapshot, copied
from .config import DatasetConfig, LearnerConfig, ModelConfig, StalenessConfig
from .critic import Critic
from .estimate import Estimator
from .optimizer import Optimizer
from .policy import TokenPolicy
from .ranks import ALONE, Ranks
from .reference import reference_of
from .trainer import Recipe, Taken, Trainer


@dataclass(frozen=True)
class Training:
    """How a policy is trained, wherever the groups come from. `temperature` is the one that they were sampled at."""

    model: ModelConfig
    dataset: DatasetConfig
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    staleness: StalenessConfig
    temperature: float
    seed: int


class Pupil:
    """A policy with its optimiser, critic, statistics and random state, at its start or where a snapshot left it.

    The same training and the same groups make the same weights, bit for bit on a CPU, however often it was resumed.

    step: how many steps it has taken.
    version: what its weights are called now.
    """

    def __init__(
        self,
        training: Training,
        identity: Callable[[int], Key],
        snapshot: Snapshot | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`identity` tells which row of the data set a position issued."""
        torch.manual_seed(training.seed)
        torch.set_num_threads(training.learner.threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, learner, algorithm = training.model, training.learner, training.algorithm
        self._ranks = ranks
        self._policy = TokenPolicy(model.path, model, device, ranks)
        self._optimizer = Optimizer(self._policy.parameters(), learner.optimizer, total_steps=learner.steps)
        self._estimator = Estimator(algorithm, identity)
        self._critic: Critic | None = None
        if isinstance(algorithm.advantage, Gae):
            self._critic = Critic(
                algorithm.advantage.critic, model, total_steps=learner.steps, device=device, ranks=ranks
            )
        self._trainer = Trainer(
            self._policy,
            self._optimizer,
            self._estimator,
            Recipe(learner, algorithm, training.staleness, training.temperature),
            reference=reference_of(self._policy, model, device, ranks) if algorithm.kl.coefficient > 0 else None,
            critic=self._critic,
            ranks=ranks,
        )
        self.step = 0
        self.version = 0
        if snapshot is not None:
            self._restore(snapshot)

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self._policy.vocab_size

    @property
    def resumes(self) -> list[tuple[int, int]]:
        """Version and gap of each resume behind it; see Trainer.resume."""
        return list(self._trainer.resumes)

    def learn(self, groups: Sequence[Group[TokenTrajectory]]) -> Taken:
        """Take a step; raises TrainingError, and takes none, where nothing can be learned from any of the groups."""
        self._ranks.tell("learn", groups)
        taken = self._trainer.step(groups, step=self.step, version=self.version)
        self.step += 1
        self.version += 1
        return taken

    def rename(self, version: int) -> None:
        """Call the weights by a version above their own, as a learner does that resumes; tokens keep their age."""
        self._ranks.tell("rename", version=version)
        self._trainer.resume(version=version, gap=version - self.version)
        self.version = version

    def follow(self, version: int, resumes: Sequence[tuple[int, int]]) -> None:
        """Call the weights as those were called that learned from what comes next, with the same resumes behind them."""
        self.version = version
        self._trainer.resumes = list(resumes)

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is trained, by the names of a checkpoint; of several ranks each has some of the tensors.

        Where only the leader can publish them, as an adapter is one file, it has them all.
        """
        self._ranks.tell("weights")
        return self._ranks.owned(self._policy.weights(), by_leader=self._by_leader)

    def snapshot(self, weights: dict[str, Tensor], **known: Any) -> Snapshot:
        """Where it stands, with a copy of its `weights`; `known` are the fields of LearnerState that are the learner's."""
        own: dict[str, Any] = {"step": self.step, "version": self.version, "resumes": self.resumes}
        critic = {} if self._critic is None else copied(self._critic.state())
        state = LearnerState(**own, **known, estimator=self._estimator.state())
        return Snapshot(state, weights, copied(self._optimizer.state()), critic, torch.get_rng_state())

    def adapter_config(self) -> dict[str, Any] | None:
        """What stands in PEFT's adapter_config.json; None without LoRA."""
        return self._policy.adapter_config()

    def save_pretrained(self, folder: Path) -> None:
        """Write a Hugging Face folder, or with LoRA an adapter's folder."""
        self._ranks.tell("save_pretrained", folder=str(folder))
        self._policy.save_pretrained(folder)

    def _restore(self, snapshot: Snapshot) -> None:
        self._policy.load_weights(snapshot.weights)
        self._optimizer.load_state(snapshot.optimizer)
        self._estimator.load(snapshot.state.estimator)
        if self._critic is not None and snapshot.critic:  # none where the run had no critic so far: it begins now
            self._critic.load(snapshot.critic)
        self.step = snapshot.state.step
        self.follow(snapshot.state.version, [(version, gap) for version, gap in snapshot.state.resumes])
        torch.set_rng_state(snapshot.rng)
