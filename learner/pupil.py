"""What is trained: the policy, and with it everything that its next step depends on and a checkpoint therefore holds."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..broker.errors import ModelError
from ..broker.folder import flush
from ..broker.trajectory import Group
from ..denoising.config import DenoisingConfig
from .algorithm.config import AlgorithmConfig, Gae
from .algorithm.running import Key
from .checkpoint import CRITIC, OPTIMIZER, WEIGHTS, Checkpoint, LearnerState, Snapshot
from .config import DatasetConfig, LearnerConfig, ModelConfig, StalenessConfig
from .critic import Critic, OwnCritic, SharedCritic
from .estimate import Estimator
from .optimizer import Optimizer
from .plan import Recipe
from .policy import Policy
from .ranks import ALONE, Ranks
from .reference import reference_of
from .saved import give_name, restore
from .token_policy import TokenPolicy
from .trainer import Taken, Trainer


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a policy is trained, wherever the groups come from.

    `temperature` is the one that they were sampled at; `denoising` says how images are made, of an image policy.
    """

    model: ModelConfig
    dataset: DatasetConfig
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    staleness: StalenessConfig
    temperature: float
    seed: int
    denoising: DenoisingConfig | None = None


class Pupil:
    """A policy with its optimiser, critic, statistics and random state, at its start or where a checkpoint left it.

    The same training and the same groups make the same weights, bit for bit on a CPU, however often it was resumed; but
    for the order of sums, where the number of ranks changes.

    step: how many steps it has taken.
    version: what its weights are called now.
    """

    def __init__(
        self,
        training: Training,
        identity: Callable[[int], Key],
        checkpoint: Checkpoint | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`identity` tells which row of the data set a position issued."""
        torch.manual_seed(training.seed)
        torch.set_num_threads(training.learner.threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, learner, algorithm = training.model, training.learner, training.algorithm
        self._ranks = ranks
        self._policy = _policy_of(training, device, ranks)
        self._optimizer = Optimizer(self._policy.parameters(), learner.optimizer, total_steps=learner.steps)
        self._estimator = Estimator(algorithm, identity)
        self._critic = self._critic_of(training, device)
        self._trainer = Trainer(
            self._policy,
            self._optimizer,
            self._estimator,
            Recipe(learner, algorithm, training.staleness, training.temperature, training.denoising, training.seed),
            reference=reference_of(self._policy, model, device, ranks) if algorithm.kl.needs_scorer else None,
            critic=self._critic,
            ranks=ranks,
        )
        self.step = 0
        self.version = 0
        if checkpoint is not None:
            self._restore(checkpoint)

    def require_row(self, row: dict[str, Any]) -> None:
        """Raises ConfigError for a row that the policy cannot answer."""
        self._policy.require_row(row)

    def unfit(self, group: Group[Any]) -> str | None:
        """Why the group cannot be learned from; None if it can be."""
        return self._policy.unfit(group)

    @property
    def resumes(self) -> list[tuple[int, int]]:
        """Version and gap of each resume behind it; see Trainer.resume."""
        return list(self._trainer.resumes)

    def learn(self, groups: Sequence[Group[Any]]) -> Taken:
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

    def weights(self, *, by_leader: bool = False) -> dict[str, Tensor]:
        """A copy of what is trained, by the names of a checkpoint; of several ranks each has some tensors, or one all."""
        self._ranks.tell("weights", by_leader=by_leader)
        return self._ranks.owned(self._policy.weights(), by_leader=by_leader)

    def before_update(self, call: Callable[[], None]) -> None:
        """Have something called each time before the tensors of a snapshot are changed."""
        self._optimizer.before_update(call)
        if self._critic is not None:
            self._critic.before_update(call)

    def snapshot(self, weights: dict[str, Tensor], **known: Any) -> Snapshot:
        """Where it stands, with a copy of its `weights`; `known` are the fields of LearnerState that are the learner's.

        The other tensors are its own, and change with the next update.
        """
        own: dict[str, Any] = {"step": self.step, "version": self.version, "resumes": self.resumes}
        critic, scale = ({}, {}) if self._critic is None else (self._critic.state(), self._critic.scale.state())
        state = LearnerState(**own, **known, estimator=self._estimator.state(), scale=scale)
        return Snapshot(state, weights, self._optimizer.state(), critic, torch.get_rng_state())

    def adapter_config(self) -> dict[str, Any] | None:
        """What stands in PEFT's adapter_config.json; None without LoRA."""
        return self._policy.adapter_config()

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder of Hugging Face, or with LoRA an adapter's; whoever reads there sees the one before until then."""
        self._ranks.tell("save_pretrained", folder=str(folder))
        with _written_aside(folder) if self._ranks.leads else nullcontext(folder) as aside:
            self._policy.save_pretrained(aside)

    def _critic_of(self, training: Training, device: str) -> Critic | None:
        advantage = training.algorithm.advantage
        if not isinstance(advantage, Gae):
            return None
        if advantage.critic.shared:
            assert isinstance(self._policy, TokenPolicy)
            return SharedCritic(advantage.critic, self._policy)
        steps = training.learner.steps
        return OwnCritic(advantage.critic, training.model, total_steps=steps, device=device, ranks=self._ranks)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Read the tensors into their places, without a copy of all in between."""
        weights, again = self._policy.weights(), self._policy.weights()
        for name, tensor in weights.items():
            if not _is_same_memory(tensor, again[name]):
                raise ModelError(f"the model keeps its weights in another form than its checkpoint: {name!r}")
        checkpoint.fill(WEIGHTS, weights)
        checkpoint.fill(OPTIMIZER, self._optimizer.state())
        state = checkpoint.state
        self._estimator.load(state.estimator)
        if self._critic is not None and CRITIC in checkpoint.parts():  # if the run had none so far, it begins now
            checkpoint.fill(CRITIC, self._critic.state())
            self._critic.scale.load(state.scale)
        self.step = state.step
        self.follow(state.version, [(version, gap) for version, gap in state.resumes])
        torch.set_rng_state(checkpoint.rng)


@contextmanager
def _written_aside(folder: Path) -> Iterator[Path]:
    """A folder beside that one, which takes its name once it is written, and its place if it is there already."""
    restore(folder.parent)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield aside
        flush(aside)
        give_name(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _policy_of(training: Training, device: str, ranks: Ranks) -> Policy:
    model, algorithm = training.model, training.algorithm
    if training.denoising is None:
        return TokenPolicy(model.path, model, device, ranks=ranks, with_values=_shares_critic(algorithm))
    from .denoising_policy import DenoisingPolicy  # with diffusers, which token policies do without

    exact = algorithm.kl.coefficient > 0 and algorithm.kl.estimator == "exact"
    return DenoisingPolicy(model, training.denoising, device, with_reference=exact)


def _shares_critic(algorithm: AlgorithmConfig) -> bool:
    return isinstance(algorithm.advantage, Gae) and algorithm.advantage.critic.shared


def _is_same_memory(left: Tensor, right: Tensor) -> bool:
    if isinstance(left, DTensor) and isinstance(right, DTensor):
        return _is_same_memory(left.to_local(), right.to_local())
    return left.data_ptr() == right.data_ptr()
