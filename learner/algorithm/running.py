"""Running statistics: a baseline for each prompt from the rewards of earlier steps.

Legend: S trajectories of a batch, each with one reward.
"""

from collections import deque
from collections.abc import Collection, Sequence
from math import fsum, inf, sqrt
from typing import Any

import torch
from torch import Tensor

Key = int | str


class PromptStatistics:
    """The last rewards of each prompt, and how a new one compares: A = (r − mean_key) / (std_key + ε), clipped.

    Rewards are compared first, and remembered once `keep` is called: the step that they were for may not be taken.

    For batches that hold few trajectories of a prompt, or one. Source: RLCM, arXiv 2404.03673, after the per-prompt
    tracker of DDPO, arXiv 2305.13301.

    size:      rewards remembered of a prompt.
    min_count: rewards below which a prompt is measured against the batch instead.
    max_keys:  prompts remembered; those longest out of use are forgotten first.
    clip:      the furthest that an advantage lies from 0, > 0; None for no bound.
    """

    def __init__(
        self, *, size: int, min_count: int, max_keys: int, clip: float | None = None, eps: float = 1e-6
    ) -> None:
        if not 1 <= min_count <= size:
            raise ValueError(f"min_count is {min_count}, not from 1 to size = {size}")
        if max_keys < 1:
            raise ValueError(f"max_keys is {max_keys}, not positive")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip is {clip}, not positive")
        self._size, self._min_count, self._max_keys, self._eps = size, min_count, max_keys, eps
        self._clip = inf if clip is None else clip
        self._rewards: dict[Key, deque[float]] = {}  # in order of use, the latest last
        self._compared: dict[Key, deque[float]] = {}  # what a batch makes of its prompts' rewards, in the same order

    def __len__(self) -> int:
        return len(self._rewards)

    def compare(self, keys: Sequence[Key], rewards_S: Tensor) -> Tensor:
        """float32[S], the advantages; mean and deviation (divisor n) include these rewards. Nothing is remembered yet.

        keys:      the prompt of each trajectory.
        rewards_S: float32[S].
        """
        if rewards_S.ndim != 1 or len(keys) != len(rewards_S):
            raise ValueError(f"rewards {list(rewards_S.shape)} and {len(keys)} keys are not both [S]")
        rewards: list[float] = rewards_S.tolist()
        self._compared = {}
        for key, reward in zip(keys, rewards, strict=True):
            self._use(key).append(reward)
        batch = _mean_std(rewards)
        moments = {key: self._moments(key, batch) for key in self._compared}
        advantages = [
            (r - moments[key][0]) / (moments[key][1] + self._eps) for key, r in zip(keys, rewards, strict=True)
        ]
        advantages_S = torch.tensor(advantages, dtype=torch.float32, device=rewards_S.device)
        return advantages_S.clamp(-self._clip, self._clip)

    def update(self, keys: Sequence[Key], rewards_S: Tensor) -> Tensor:
        """`compare`, then `keep`."""
        advantages_S = self.compare(keys, rewards_S)
        self.keep()
        return advantages_S

    def keep(self) -> None:
        """Remember what was compared last."""
        for key, rewards in self._compared.items():
            self._rewards.pop(key, None)
            self._rewards[key] = rewards
        self._compared = {}
        self._forget()

    def state(self) -> dict[str, Any]:
        """What `load` takes back, of JSON values: the rewards of each prompt, in order of use."""
        return {"rewards": [[key, list(rewards)] for key, rewards in self._rewards.items()]}

    def load(self, state: dict[str, Any]) -> None:
        """Replace all that is remembered by what `state` gave, within the present size and max_keys."""
        self._rewards = {key: deque(rewards, self._size) for key, rewards in state["rewards"]}
        self._compared = {}
        self._forget()

    def _use(self, key: Key) -> deque[float]:
        """The rewards of a prompt, a copy of those remembered at first; it becomes the latest in use."""
        rewards = self._compared.pop(key, None)
        self._compared[key] = deque(self._rewards.get(key, ()), self._size) if rewards is None else rewards
        return self._compared[key]

    def _moments(self, key: Key, batch: tuple[float, float]) -> tuple[float, float]:
        rewards = self._compared[key]
        return _mean_std(rewards) if len(rewards) >= self._min_count else batch

    def _forget(self) -> None:
        while len(self._rewards) > self._max_keys:
            del self._rewards[next(iter(self._rewards))]


def _mean_std(values: Collection[float]) -> tuple[float, float]:
    count = max(len(values), 1)
    mean = fsum(values) / count
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / count)
