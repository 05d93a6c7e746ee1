from typing import Any

import numpy as np
import pytest

from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory


def trajectory(**changed: Any) -> TokenTrajectory:
    fields: dict[str, Any] = {
        "tokens": np.array([5, 6, 7], np.int32),
        "versions": np.array([NOT_AN_ACTION, 3, 2], np.int32),
        "behaviour_logprobs": np.array([0, -0.5, -1.5], np.float32),
        "reward": 1.0,
    }
    return TokenTrajectory(**fields | changed)


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
        ({"reward": float("inf")}, "reward is inf"),
        ({"finish_reason": "tired"}, "finish_reason is 'tired'"),
        ({"reward_parts": {"sort": "1"}}, "reward_parts"),
    ],
)
def test_a_wrong_trajectory_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        trajectory(**changed)


def test_what_was_given_may_have_any_log_probability() -> None:
    assert trajectory(behaviour_logprobs=np.array([np.nan, -1, -1], np.float32)).num_actions == 2


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
