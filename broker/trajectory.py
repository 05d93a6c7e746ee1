"""What travels between rollout workers and the learner: prompts one way, groups of trajectories the other.

Legend: T tokens of one trajectory (prompt and answer), H denoising actions of one, G trajectories of one prompt,
N tokens and A actions of one trajectory or of several laid end to end.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

NOT_AN_ACTION = -1
"""The version of a token that the policy did not sample (prompt, tool output)."""

FINISH_REASONS = ("stop", "length")
MAX_GROUP_SIZE = 4096
MAX_VERSION = 2**31 - 1
MAX_SEED = 2**64 - 1
MAX_DIMENSIONS = 8
INTEGERS = {2: (np.int16, np.uint16, 0x7C00, 1 << 15), 4: (np.int32, np.uint32, 0x7F80_0000, 1 << 31)}
"""By the width of a floating-point type: the integers of that width, the bits of infinity and of the minus sign."""

REAL = (int, float)
FLOAT32_MAX = float(np.finfo(np.float32).max)


LOOKED_AT = "areal:look"
"""The column of a row whose images somebody is to look at: a number, which says the noise that they are always made of."""


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
        _require(isinstance(self.id, int) and self.id >= 0, f"prompt id {self.id!r:.200} is not a position ≥ 0")
        _require(isinstance(self.min_version, int), f"min_version {self.min_version!r:.200} is not an integer")
        fits = isinstance(self.group_size, int) and 1 <= self.group_size <= MAX_GROUP_SIZE
        _require(fits, f"group_size {self.group_size!r:.200} is not within 1 to {MAX_GROUP_SIZE}")
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
            _require_vector(name, array, dtype, "T")
            _require(len(array) == len(self.tokens), f"{name} has {len(array)} entries for {len(self.tokens)} tokens")
        _require(int(self.versions.min(initial=0)) >= NOT_AN_ACTION, "a version is below -1")
        mask = self.action_mask
        _require(not mask[:1].any(), "the first token is an action: nothing before it predicts it")
        _require(bool(mask.any()), "there is no action: every token is marked as given")
        check_tokens(self.tokens, self.behaviour_logprobs[mask])
        self._check_outcome()

    @classmethod
    def of_checked_arrays(
        cls,
        tokens: NDArray[np.int32],
        versions: NDArray[np.int32],
        behaviour_logprobs: NDArray[np.float32],
        reward: float,
        reward_parts: dict[str, float],
        finish_reason: str,
    ) -> "TokenTrajectory":
        """One whose arrays the caller has checked, over a whole group at once; the rest is checked here."""
        made = object.__new__(cls)
        put = object.__setattr__  # it is frozen
        put(made, "tokens", tokens)
        put(made, "versions", versions)
        put(made, "behaviour_logprobs", behaviour_logprobs)
        put(made, "reward", reward)
        put(made, "reward_parts", reward_parts)
        put(made, "finish_reason", finish_reason)
        made._check_outcome()
        return made

    @property
    def action_mask(self) -> NDArray[np.bool_]:
        """bool[T], true where the policy chose the token."""
        mask: NDArray[np.bool_] = self.versions != NOT_AN_ACTION
        return mask

    @property
    def num_actions(self) -> int:
        return int(np.count_nonzero(self.action_mask))

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut off."""
        return self.finish_reason == "length"

    @property
    def version_span(self) -> tuple[int, int]:
        """The oldest and the newest version that chose a token."""
        versions = self.versions[self.action_mask]
        return int(versions.min()), int(versions.max())

    def _check_outcome(self) -> None:
        _check_reward(self.reward, self.reward_parts)
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason is {self.finish_reason!r:.200}, not one of {FINISH_REASONS}")


@dataclass(frozen=True, slots=True)
class DenoisingTrajectory:
    """One image of a denoising policy: H Gaussian actions, each from one latent to the next and less noisy one.

    `latents` float16 or float32 [H+1, ...] are the states in the dtype of the wire, from pure noise on, and `timesteps`
    int32[H+1] the noise level of each; action h leads from latents[h] at timesteps[h], where the network is evaluated,
    to latents[h+1] at timesteps[h+1]. `behaviour_logprobs` float32[H] holds log π_behav(latents[h+1] | latents[h]) of
    the latents as stored, summed over their dimensions: a density, so of either sign and in the thousands. The image
    decoded from the last latent is no action: that call draws nothing. `version` is that of the weights behind every
    action. `condition` (JSON values) and `guidance` are what the network was given beside the latent; `seed` is that of
    the noise. `picture` uint8[height, width] (grey) or [height, width, 3] is the image, where somebody is to look at it.
    """

    latents: NDArray[np.float16] | NDArray[np.float32]
    timesteps: NDArray[np.int32]
    behaviour_logprobs: NDArray[np.float32]
    version: int
    condition: dict[str, Any]
    guidance: float
    seed: int
    reward: float
    reward_parts: dict[str, float] = field(default_factory=dict)
    picture: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        self._check_latents()
        if self.picture is not None:
            _check_picture(self.picture)
        _require_vector("timesteps", self.timesteps, np.int32, "H+1")
        _require_vector("behaviour_logprobs", self.behaviour_logprobs, np.float32, "H")
        states, levels, actions = len(self.latents), len(self.timesteps), len(self.behaviour_logprobs)
        if not states == levels == actions + 1 >= 2:
            raise ValueError(
                f"{states} latents, {levels} timesteps and {actions} behaviour_logprobs, not H+1, H+1 and H"
            )
        _require(int(self.timesteps.min()) >= 0, "a timestep is negative")
        _require(_all_finite(self.behaviour_logprobs), "a behaviour log-probability is not finite")
        _require(_all_finite(self.latents), "a latent is not finite")
        _require(isinstance(self.condition, dict), "condition is not a mapping")
        if not _is_number(self.guidance):
            raise ValueError(f"guidance is {self.guidance!r:.200}, not a finite number")
        if not _is_within(self.version, 0, MAX_VERSION):
            raise ValueError(f"version {self.version!r:.200} is not an integer from 0 to {MAX_VERSION}")
        if not _is_within(self.seed, 0, MAX_SEED):
            raise ValueError(f"seed {self.seed!r:.200} is not an integer from 0 to {MAX_SEED}")
        _check_reward(self.reward, self.reward_parts)

    @property
    def num_actions(self) -> int:
        return len(self.behaviour_logprobs)

    @property
    def truncated(self) -> bool:
        """An image is never cut off."""
        return False

    @property
    def version_span(self) -> tuple[int, int]:
        """One version makes a whole image."""
        return self.version, self.version

    def _check_latents(self) -> None:
        latents = self.latents
        is_array = isinstance(latents, np.ndarray) and latents.dtype in (np.float16, np.float32)
        if not is_array or not 2 <= latents.ndim <= MAX_DIMENSIONS or latents.size == 0:
            raise ValueError(f"latents is {_described(latents)}, not float16 or float32 [H+1, ...]")


Trajectory = TokenTrajectory | DenoisingTrajectory
TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)


@dataclass(frozen=True, slots=True)
class Group(Generic[TrajectoryT]):
    """The G trajectories of one prompt, all of one kind: the scope of the advantage's baseline. Times are Unix seconds."""

    prompt_id: int
    trajectories: tuple[TrajectoryT, ...]
    worker: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.prompt_id, int) or self.prompt_id < 0:
            raise ValueError(f"prompt id {self.prompt_id!r:.200} is not a position ≥ 0")
        _require(isinstance(self.worker, str), f"worker is {self.worker!r:.200}, not a name")
        if not _is_number(self.started_at) or not _is_number(self.finished_at):
            times = f"{self.started_at!r:.200} and {self.finished_at!r:.200}"
            raise ValueError(f"the times of a group are {times}, not Unix seconds")
        if not 1 <= len(self.trajectories) <= MAX_GROUP_SIZE:
            size = len(self.trajectories)
            raise ValueError(f"a group holds at least one trajectory and at most {MAX_GROUP_SIZE}, not {size}")
        kinds = set(map(type, self.trajectories))
        if kinds not in ({TokenTrajectory}, {DenoisingTrajectory}):
            names = sorted(kind.__name__ for kind in kinds)
            raise ValueError(f"a group holds trajectories of one kind, not {names!r:.200}")

    @property
    def rewards(self) -> NDArray[np.float32]:
        """float32[G]."""
        return np.array([t.reward for t in self.trajectories], dtype=np.float32)


def check_tokens(tokens: NDArray[np.int32], action_logprobs: NDArray[np.float32]) -> None:
    """Raises ValueError unless these are ids int32[N] and log-probabilities float32[A]."""
    if least(tokens) < 0:
        raise ValueError("a token id is negative")
    lowest, highest = least(action_logprobs), greatest(action_logprobs)
    if not -np.inf < lowest <= highest < np.inf:
        raise ValueError("a behaviour log-probability is not finite")
    if highest > 1e-3:
        raise ValueError(f"a behaviour log-probability is positive ({highest:.3g})")


def least(vector: NDArray[Any]) -> Any:
    """The minimum as a number of Python, NaN if there is one: of a short vector several times faster than by `min`."""
    return vector.item(vector.argmin())


def greatest(vector: NDArray[Any]) -> Any:
    """The maximum, likewise."""
    return vector.item(vector.argmax())


def _check_picture(picture: Any) -> None:
    is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3)
    if not is_picture or picture.size == 0 or picture.shape[2:] not in ((), (3,)):
        raise ValueError(f"picture is {_described(picture)}, not uint8[height, width] or [height, width, 3]")


def _check_reward(reward: Any, parts: Any) -> None:
    if not _is_number(reward):
        raise ValueError(f"the reward is {reward!r:.200}, not a finite number")
    if not isinstance(parts, dict) or not all(isinstance(name, str) and _is_number(parts[name]) for name in parts):
        raise ValueError(f"reward_parts is no mapping of names to finite numbers: {parts!r:.200}")


def _require_vector(name: str, array: Any, dtype: type[np.generic], length: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{name} is {_described(array)}, not {dtype.__name__}[{length}]")


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"


def _all_finite(array: NDArray[Any]) -> bool:
    """Whether a float16 or float32 array has no infinity and no NaN: read off the bits, many times faster than isfinite.

    As integers of its width, signed ones for the positive and unsigned ones for the negative numbers, the infinity lies
    above every finite number and below every NaN.
    """
    signed, unsigned, infinity, sign = INTEGERS[array.itemsize]
    if int(array.view(signed).max(initial=0)) >= infinity:
        return False
    return int(array.view(unsigned).max(initial=0)) < sign + infinity


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that float32 can hold."""
    plain = value.item() if isinstance(value, np.number) else value
    return isinstance(plain, REAL) and abs(plain) <= FLOAT32_MAX


def _is_within(value: Any, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and lowest <= value <= highest


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
