from typing import Any

import numpy as np
import pytest

from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory, check_tokens


def trajectory(**changed: Any) -> TokenTrajectory:
    fields: dict[str, Any] = {
        "tokens": np.array([5, 6, 7], np.int32),
        "versions": np.array([NOT_AN_ACTION, 3, 2], np.int32),
        "behaviour_logprobs": np.array([0, -0.5, -1.5], np.float32),
        "reward": 1.0,
    }
    return TokenTrajectory(**fields | changed)


def image(**changed: Any) -> DenoisingTrajectory:
    fields: dict[str, Any] = {
        "latents": np.zeros((3, 4, 8, 8), np.float16),
        "timesteps": np.array([999, 666, 333], np.int32),
        "behaviour_logprobs": np.array([-31415.9, 2718.2], np.float32),
        "version": 3,
        "condition": {"prompt": "a cat"},
        "guidance": 8.0,
        "seed": 2**64 - 1,
        "reward": -1.5,
    }
    return DenoisingTrajectory(**fields | changed)


def test_what_a_trajectory_knows_of_itself() -> None:
    made = trajectory()
    assert made.action_mask.tolist() == [False, True, True]
    assert made.num_actions == 2
    group = Group(0, (made, trajectory(reward=-2.0, versions=np.array([-1, 5, 1], np.int32))))
    assert group.rewards.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokens": np.array([5, 6, 7])}, "tokens is int64"),
        ({"tokens": np.zeros((1, 3), np.int32)}, "not int32"),
        ({"tokens": np.array([5, -6, 7], np.int32)}, "token id is negative"),
        ({"versions": np.array([0, 0], np.int32)}, "versions has 2 entries for 3 tokens"),
        ({"versions": np.array([-1, -2, 0], np.int32)}, "below -1"),
        ({"versions": np.full(3, -1, np.int32)}, "no action"),
        ({"versions": np.array([2, -1, 2], np.int32)}, "first token is an action"),
        ({"versions": np.array([0, 0, 0], np.int32)}, "first token is an action"),
        ({"behaviour_logprobs": np.array([0, np.nan, 0], np.float32)}, "not finite"),
        ({"behaviour_logprobs": np.array([0, 0.5, 0], np.float32)}, "positive"),
        ({"behaviour_logprobs": np.zeros(3)}, "float64"),
        ({"tokens": [5, 6, 7]}, "tokens is a list"),
        ({"behaviour_logprobs": np.array([0, -np.inf, 0], np.float32)}, "not finite"),
        ({"reward": float("inf")}, "reward is inf"),
        ({"reward": float("nan")}, "reward is nan"),
        ({"reward": 1e39}, "reward is 1e\\+39"),
        ({"reward": "1"}, "reward is '1'"),
        ({"reward": np.complex64(1)}, "reward is"),
        ({"reward_parts": {"sort": float("nan")}}, "reward_parts"),
        ({"reward_parts": {1: 1.0}}, "reward_parts"),
        ({"finish_reason": "tired"}, "finish_reason is 'tired'"),
        ({"reward_parts": {"sort": "1"}}, "reward_parts"),
    ],
)
def test_a_wrong_trajectory_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        trajectory(**changed)


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf, 0.01])
@pytest.mark.parametrize("length", [2, 9, 64, 1000])
def test_a_log_probability_that_cannot_be_is_found_wherever_it_is(wrong: float, length: int) -> None:
    logprobs = np.linspace(-9, 0, length, dtype=np.float32)
    check_tokens(np.arange(length, dtype=np.int32), logprobs)
    for place in range(length):
        spoilt = logprobs.copy()
        spoilt[place] = wrong
        with pytest.raises(ValueError, match="log-probability is"):
            check_tokens(np.arange(length, dtype=np.int32), spoilt)


def test_what_was_given_may_have_any_log_probability() -> None:
    assert trajectory(behaviour_logprobs=np.array([np.nan, -1, -1], np.float32)).num_actions == 2


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.float64(1), np.float16(1), np.int64(1)])
def test_a_reward_is_any_finite_number(reward: Any) -> None:
    assert trajectory(reward=reward, reward_parts={"sort": reward}).reward == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_an_image_knows_of_itself(dtype: type) -> None:
    highest = np.finfo(dtype).max
    made = image(latents=np.array([[-highest, 0.0], [highest, -0.0], [1.0, -1.0]], dtype))
    assert made.num_actions == 2
    group = Group(0, (made, image(reward=np.float32(2))))
    assert group.rewards.tolist() == [-1.5, 2.0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"latents": np.zeros((3, 4))}, "latents is float64"),
        ({"latents": np.zeros(3, np.float32)}, "latents is float32\\[3\\]"),
        ({"latents": np.zeros((3, 0), np.float32)}, "latents is float32\\[3, 0\\]"),
        ({"latents": np.zeros((3, *[1] * 8), np.float32)}, "latents is"),
        ({"latents": [[0.0], [0.0], [0.0]]}, "latents is a list"),
        ({"picture": np.zeros((2, 2, 4), np.uint8)}, "picture is uint8\\[2, 2, 4\\], not uint8"),
        ({"picture": np.zeros((2, 2), np.float32)}, "picture is float32\\[2, 2\\]"),
        ({"picture": b"PNG"}, "picture is a bytes"),
        ({"latents": np.zeros((2, 4), np.float16)}, "2 latents, 3 timesteps"),
        ({"latents": np.zeros((1, 4), np.float16), "timesteps": np.zeros(1, np.int32)}, "1 latents, 1 timesteps"),
        ({"latents": np.zeros((2, 4), np.float16), "timesteps": np.zeros(2, np.int32)}, "2 latents, 2 timesteps"),
        ({"latents": np.array([[0], [np.nan], [0]], np.float16)}, "a latent is not finite"),
        ({"latents": np.array([[0], [-np.nan], [0]], np.float32)}, "a latent is not finite"),
        ({"latents": np.array([[0], [np.inf], [0]], np.float32)}, "a latent is not finite"),
        ({"latents": np.array([[0], [-np.inf], [0]], np.float16)}, "a latent is not finite"),
        ({"timesteps": np.array([999, 666, -1], np.int32)}, "timestep is negative"),
        ({"timesteps": np.array([999, 666, 333])}, "timesteps is int64"),
        ({"timesteps": np.array([999, 666], np.int32)}, "3 latents, 2 timesteps and 2 behaviour_logprobs, not H"),
        ({"behaviour_logprobs": np.array([1.0], np.float32)}, "1 behaviour_logprobs"),
        ({"behaviour_logprobs": np.array([1.0, -np.inf], np.float32)}, "not finite"),
        ({"behaviour_logprobs": np.zeros((2, 4), np.float32)}, "behaviour_logprobs is"),
        ({"version": -1}, "version -1"),
        ({"version": 2**31}, "version 2147483648"),
        ({"version": 1.0}, "version 1.0"),
        ({"condition": "a cat"}, "condition"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": None}, "guidance is None"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"reward": float("nan")}, "reward is nan"),
        ({"reward_parts": {"jpeg": "1"}}, "reward_parts"),
    ],
)
def test_a_wrong_image_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        image(**changed)


@pytest.mark.parametrize("width", [2, 4])
def test_every_infinity_and_nan_is_found(width: int) -> None:
    """All bit patterns of float16, and those of float32 that have its exponents and the ends of its mantissas."""
    patterns = np.arange(2**16, dtype=np.uint16)
    if width == 4:
        patterns = (patterns.astype(np.uint32) << 16)[:, None] + np.array([0, 1, 2**16 - 1], np.uint32)
    numbers = patterns.reshape(-1, 1).view(f"f{width}")
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(numbers[:, 0])
    latents = np.zeros((3, 1), numbers.dtype)
    for number, is_finite in list(zip(numbers, finite, strict=True))[:: 1 if width == 2 else 7]:
        latents[1] = number
        try:
            image(latents=latents)
        except ValueError:
            assert not is_finite
        else:
            assert is_finite


@pytest.mark.parametrize(
    "fields",
    [
        (-1, 0, 8, {}),
        ("1", 0, 8, {}),
        (1, None, 8, {}),
        (1, 0, 0, {}),
        (1, 0, 8, []),
        (1, 0, 2.0, {}),
        (1, 0, 4097, {}),
    ],
)
def test_a_wrong_prompt_is_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        Prompt(*fields)


def test_a_wrong_group_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Group(0, ())
    with pytest.raises(ValueError, match="prompt id"):
        Group(-1, (trajectory(),))
    with pytest.raises(ValueError, match="one kind"):
        Group(0, (trajectory(), image()))
    with pytest.raises(ValueError, match="one kind"):
        Group(0, ("trajectory",))
    with pytest.raises(ValueError, match="at most 4096"):
        Group(0, (trajectory(),) * 4097)
    with pytest.raises(ValueError, match="times"):
        Group(0, (trajectory(),), started_at=float("nan"))
