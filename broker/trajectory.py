"""What travels between rollout workers and the learner: prompts one way, groups of trajectories the other.

Legend: T tokens of one trajectory (prompt and answer), G trajectories of one prompt.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_AN_ACTION = -1
"""The version of a token that the policy did not sample (prompt, tool output)."""

FINISH_REASONS = ("stop", "length")
MAX_GROUP_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Prompt:
    """A ticket: one row of a dataset, to be turned into a group by a rollout worker.

    `id` is the row's position in the order of issue, unique within a lane. No token may be sampled from weights older
    than `min_version`. `row` holds the columns of the dataset (JSON values); the workflow reads `messages` or `prompt`
    from it and the rewards get all of it.
    """

    id: int
    min_version: int
    group_size: int
    row: dict[str, Any]

    def __post_init__(self) -> None:
        _require(isinstance(self.id, int) and self.id >= 0, f"prompt id {self.id!r} is not a position ≥ 0")
        _require(isinstance(self.min_version, int), f"min_version {self.min_version!r} is not an integer")
        fits = isinstance(self.group_size, int) and 1 <= self.group_size <= MAX_GROUP_SIZE
        _require(fits, f"group_size {self.group_size!r} is not within 1 to {MAX_GROUP_SIZE}")
        _require(isinstance(self.row, dict), "row is not a mapping")


@dataclass(frozen=True, slots=True)
class TokenTrajectory:
    """One episode of a token policy.

    `tokens` int32[T]; `versions` int32[T] holds the version of the weights that sampled each token, NOT_AN_ACTION where
    the policy did not choose; `behaviour_logprobs` float32[T] holds log π_behav(token) as the engine sampled it (after
    temperature), 0 where the policy did not choose. `reward_parts` are the named terms that `reward` was made of.
    """

    tokens: NDArray[np.int32]
    versions: NDArray[np.int32]
    behaviour_logprobs: NDArray[np.float32]
    reward: float
    reward_parts: dict[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        for name, dtype in (("tokens", np.int32), ("versions", np.int32), ("behaviour_logprobs", np.float32)):
            array = getattr(self, name)
            _require(
                array.dtype == dtype and array.ndim == 1,
                f"{name} is {array.dtype}{list(array.shape)}, not {dtype.__name__}[T]",
            )
            _require(len(array) == len(self.tokens), f"{name} has {len(array)} entries for {len(self.tokens)} tokens")
        _require(bool((self.tokens >= 0).all()), "a token id is negative")
        _require(bool((self.versions >= NOT_AN_ACTION).all()), "a version is below -1")
        _require(not self.action_mask[:1].any(), "the first token is an action: nothing before it predicts it")
        logprobs = self.behaviour_logprobs[self.action_mask]
        _require(len(logprobs) > 0, "there is no action: every token is marked as given")
        _require(bool(np.isfinite(logprobs).all()), "a behaviour log-probability is not finite")
        _require(bool((logprobs <= 1e-3).all()), f"a behaviour log-probability is positive ({logprobs.max():.3g})")
        _require(bool(np.isfinite(self.reward)), f"the reward is {self.reward}")
        parts = self.reward_parts
        _require(
            isinstance(parts, dict)
            and all(isinstance(k, str) and isinstance(v, int | float) for k, v in parts.items()),
            f"reward_parts is no mapping of names to numbers: {parts!r:.200}",
        )
        _require(self.finish_reason in FINISH_REASONS, f"finish_reason is {self.finish_reason!r}")

    @property
    def action_mask(self) -> NDArray[np.bool_]:
        """bool[T], true where the policy chose the token."""
        mask: NDArray[np.bool_] = self.versions != NOT_AN_ACTION
        return mask

    @property
    def num_actions(self) -> int:
        return int(np.count_nonzero(self.action_mask))


@dataclass(frozen=True, slots=True)
class Group:
    """The G trajectories of one prompt, the scope of the advantage's baseline. Times are Unix seconds."""

    prompt_id: int
    trajectories: tuple[TokenTrajectory, ...]
    worker: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0

    def __post_init__(self) -> None:
        _require(
            isinstance(self.prompt_id, int) and self.prompt_id >= 0,
            f"prompt id {self.prompt_id!r} is not a position ≥ 0",
        )
        _require(isinstance(self.worker, str), f"worker is {self.worker!r:.200}, not a name")
        _require(
            isinstance(self.started_at, int | float) and isinstance(self.finished_at, int | float),
            f"the times of a group are {self.started_at!r:.200} and {self.finished_at!r:.200}, not Unix seconds",
        )
        _require(len(self.trajectories) >= 1, "a group holds at least one trajectory")

    @property
    def rewards(self) -> NDArray[np.float32]:
        """float32[G]."""
        return np.array([t.reward for t in self.trajectories], dtype=np.float32)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
