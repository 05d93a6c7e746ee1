"""What is known of a step: of the batch before it, of the ages of its tokens, and of the objective.

Legend: A actions of a batch.
"""

import time
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from ..broker.trajectory import Group
from .algorithm.config import ShapingConfig
from .batch import Batch
from .screen import constant_groups

MEANS = {
    "entropy": "entropy",
    "clipped_fraction": "num_clipped",
    "limited_fraction": "num_limited",
    "behaviour_weight_mean": "behaviour_weight",
    "kl_behaviour_prox": "kl_behaviour_prox",
    "kl_prox_current": "kl_prox_theta",
    "kl_reference": "kl_reference",
    "values_clipped_fraction": "num_values_clipped",
}
"""What each metric is the mean of, over the actions that counted."""


def measure_batch(batch: Batch, shaping: ShapingConfig) -> dict[str, float]:
    """Rewards, lengths and times of a batch; ages in seconds count from when its group was begun, queue and all."""
    groups = batch.groups
    reward = fmean(trajectory.reward for trajectory in batch.trajectories)
    age_s = np.array([time.time() - group.started_at for group in groups])
    return {
        "reward_mean": reward,
        "reward_learned_mean": reward,
        "length_mean": float(batch.lengths_S.double().mean()),
        "truncated_fraction": float(batch.truncated_S.double().mean()),
        "groups": len(groups),
        "groups_without_variance": sum(constant_groups(batch, shaping)),
        "started_at": min(group.started_at for group in groups),
        "age_s_mean": float(age_s.mean()),
        "age_s_p95": float(np.quantile(age_s, 0.95)),
        "age_s_max": float(age_s.max()),
        "queue_s_mean": float(np.mean([time.time() - group.finished_at for group in groups])),
    }


class RewardTally:
    """The rewards of groups as they come, whether they are learned from or not."""

    def __init__(self) -> None:
        self._rewards: list[float] = []
        self._parts: dict[str, list[float]] = {}

    def add(self, groups: Iterable[Group[Any]]) -> None:
        for trajectory in (trajectory for group in groups for trajectory in group.trajectories):
            self._rewards.append(trajectory.reward)
            for name, value in trajectory.reward_parts.items():
                self._parts.setdefault(name, []).append(value)

    def means(self) -> dict[str, Any]:
        """The mean reward, and that of each named part over the trajectories that have it."""
        parts = {name: fmean(values) for name, values in self._parts.items()}
        return {"reward_mean": fmean(self._rewards), "reward_parts": parts}


def measure_ages(age_A: Tensor, keep_A: Tensor, bound: int) -> dict[str, float]:
    """Ages in versions: of the tokens that count, the maximum of all, and how many were older than the bound."""
    counted = age_A[keep_A].numpy()
    return {
        "staleness_mean": float(counted.mean()) if len(counted) else 0.0,
        "staleness_p95": float(np.quantile(counted, 0.95)) if len(counted) else 0.0,
        "staleness_max": int(age_A.max()),
        "tokens_too_old": int((age_A > bound).sum()),
        "tokens_trained": len(counted),
    }


class Tally:
    """The sums of a step's objectives, and what they come to."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._norms = [0.0]
        self._rate = 0.0

    def add(self, sums: Mapping[str, float], *, grad_norm: float, lr: float) -> None:
        """Count an update: the sums of its passes, its gradient's norm and its rate."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._norms.append(grad_norm)
        self._rate = lr

    def means(self, num_minibatches: int) -> dict[str, float]:
        """Means over the actions that counted in a pass; the ESS as a share of them.

        What was masked is a share of these and of those that lay too far off before any pass.
        """
        sums = self._sums
        kept = sums.get("num_kept", 0.0)
        names = {name: sums.get(source, 0.0) / kept if kept else 0.0 for name, source in MEANS.items()}
        far = sums.get("num_far", 0.0)
        squared = sums.get("behaviour_weight_squared", 0.0) * kept
        return names | {
            "loss": sums.get("loss", 0.0) / num_minibatches,
            "value_loss": sums.get("value_loss", 0.0) / num_minibatches,
            "masked_fraction": (sums.get("num_masked", 0.0) + far) / (kept + far) if kept + far else 0.0,
            "behaviour_ess": sums["behaviour_weight"] ** 2 / squared if squared else 0.0,
            "padding": sums.get("padding", 0.0),
            "grad_norm": max(self._norms),
            "lr": self._rate,
        }
