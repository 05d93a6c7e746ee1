"""Advantages of a batch: what the rewards say of each action.

Legend: S trajectories of a batch, A actions of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .algorithm.advantage import (
    batch_normalised,
    group_centred,
    group_centred_batch_scaled,
    group_normalised,
    leave_one_out,
)
from .algorithm.config import AlgorithmConfig, Gae, PerPrompt, ReinforcePp, ShapingConfig
from .algorithm.flat import segment_sum
from .algorithm.kl import ESTIMATORS
from .algorithm.returns import gae, reward_to_go, turn_discounts, turn_gammas, turns_after
from .algorithm.running import Key, PromptStatistics
from .algorithm.shaping import overlong_penalty, shaped
from .batch import Batch

PER_TRAJECTORY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grpo": group_normalised,
    "dr_grpo": group_centred,
    "rloo": leave_one_out,
    "lite_ppo": group_centred_batch_scaled,
}


class Estimator:
    """Turns the rewards of a batch into advantages; `identity` tells which row of the data set a position issued.

    What is learned of the rows is kept when the step has been taken: `keep`.
    """

    def __init__(self, config: AlgorithmConfig, identity: Callable[[int], Key]) -> None:
        self._config = config
        self._identity = identity
        advantage = config.advantage
        self._memory: PromptStatistics | None = None
        if isinstance(advantage, PerPrompt):
            size, least, most = advantage.memory, advantage.min_count, advantage.prompts
            self._memory = PromptStatistics(size=size, min_count=least, max_keys=most, clip=advantage.clip)

    def advantages(self, batch: Batch, keep_A: Tensor, reference_logprobs_A: Tensor | None) -> Tensor:
        """float32[A], without a critic.

        keep_A:               bool[A], the actions that count.
        reference_logprobs_A: float32[A], log π_ref, where a KL term is taken off the reward.
        """
        reward_S = shaped_rewards(batch, self._config.shaping)
        penalty_A = self._penalties(batch, reference_logprobs_A)
        if isinstance(self._config.advantage, ReinforcePp):
            advantages_A = self._reinforce_pp(batch, reward_S, penalty_A, keep_A)
        else:
            total_S = reward_S + segment_sum(penalty_A, batch.segment_ids_A, len(reward_S))
            advantages_A = self._per_trajectory(batch, total_S)[batch.segment_ids_A]
        after_A = turns_after(batch.positions_A, batch.segment_ids_A)
        return advantages_A * turn_discounts(after_A, self._config.shaping.turn_discount)

    def with_critic(
        self, batch: Batch, keep_A: Tensor, reference_logprobs_A: Tensor | None, values_A: Tensor
    ) -> tuple[Tensor, Tensor]:
        """float32[A] advantages, and float32[A] the returns that the critic is to learn, in units of the reward.

        values_A: float32[A], V before each action, in units of the reward. The rest as in `advantages`.
        """
        config = self._config.advantage
        assert isinstance(config, Gae)
        reward_A = self._penalties(batch, reference_logprobs_A)
        reward_A = reward_A.index_add(0, batch.bounds[1:] - 1, shaped_rewards(batch, self._config.shaping))
        segments_A, turn_gamma = batch.segment_ids_A, self._config.shaping.turn_discount
        gamma_A = turn_gammas(batch.positions_A, segments_A, token_gamma=config.gamma, turn_gamma=turn_gamma)
        advantages_A, returns_A = gae(reward_A, values_A, segments_A, gamma_A=gamma_A, lam=config.lam)
        return batch_normalised(advantages_A, keep_A) if config.normalise else advantages_A, returns_A

    def keep(self) -> None:
        """Remember the rewards of the batch that advantages were given for last, now that a step has been made of it."""
        if self._memory is not None:
            self._memory.keep()

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON values."""
        return {} if self._memory is None else self._memory.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        if self._memory is not None and state:
            self._memory.load(state)

    def _penalties(self, batch: Batch, reference_logprobs_A: Tensor | None) -> Tensor:
        """float32[A], −β·KL(π_behav‖π_ref) as estimated from each action; 0 where there is no such term."""
        if reference_logprobs_A is None or self._config.kl.where != "reward":
            return torch.zeros(batch.num_actions)
        estimate = ESTIMATORS[self._config.kl.estimator]
        return -self._config.kl.coefficient * estimate(batch.behaviour_logprobs_A, reference_logprobs_A)

    def _per_trajectory(self, batch: Batch, reward_S: Tensor) -> Tensor:
        if self._memory is None:
            return PER_TRAJECTORY[self._config.advantage.name](reward_S, batch.group_ids_S)
        rows = [self._identity(group.prompt_id) for group in batch.groups]
        return self._memory.compare([rows[place] for place in batch.group_ids_S.tolist()], reward_S)

    def _reinforce_pp(self, batch: Batch, reward_S: Tensor, penalty_A: Tensor, keep_A: Tensor) -> Tensor:
        config = self._config.advantage
        if isinstance(config, ReinforcePp) and config.group_baseline:
            reward_S = group_centred(reward_S, batch.group_ids_S)
        reward_A = penalty_A.index_add(0, batch.bounds[1:] - 1, reward_S)
        return_A = reward_to_go(reward_A, batch.segment_ids_A, torch.ones_like(reward_A))
        return batch_normalised(return_A, keep_A)


def shaped_rewards(batch: Batch, config: ShapingConfig) -> Tensor:
    """float32[S], the rewards that are learned from."""
    reward_S = shaped(batch.rewards_S, scale=config.scale, bias=config.bias, clip=config.clip)
    if config.overlong is None:
        return reward_S
    overlong, longest = config.overlong, config.overlong.max_length
    if longest is None:
        raise ValueError("shaping.overlong.max_length is not known; AlgorithmConfig.with_lengths fills it in")
    return reward_S + overlong_penalty(
        batch.lengths_S, max_length=longest, buffer=overlong.buffer, factor=overlong.factor
    )
