from typing import Any

import numpy as np
import pytest

from areal.broker.trajectory import Group, TokenTrajectory
from areal.learner.algorithm.config import ShapingConfig
from areal.learner.batch import Batch
from areal.learner.screen import constant_groups


def answered(*rewards: float, token: int = 3) -> Group[Any]:
    return Group(
        7,
        tuple(
            TokenTrajectory(
                np.array([1, token], np.int32), np.array([-1, 0], np.int32), np.zeros(2, np.float32), reward
            )
            for reward in rewards
        ),
    )


@pytest.mark.parametrize(("rewards", "constant"), [((1.0,), True), ((0.5, 0.5), True), ((0.5, 0.5, 0.25), False)])
def test_a_group_of_equal_rewards_is_constant(rewards: tuple[float, ...], constant: bool) -> None:
    batch = Batch.of([answered(1.0, 0.0), answered(*rewards)])
    assert constant_groups(batch, ShapingConfig()) == [False, constant]


def of_lengths(*lengths: int) -> Group[Any]:
    """Answers of so many tokens, each with reward 1."""

    def answer(length: int) -> TokenTrajectory:
        versions = np.array([-1] + [0] * length, np.int32)
        return TokenTrajectory(np.full(length + 1, 3, np.int32), versions, np.zeros(length + 1, np.float32), 1.0)

    return Group(8, tuple(map(answer, lengths)))


@pytest.mark.parametrize(
    ("shaping", "constant"),
    [
        ({}, [False, True]),
        ({"clip": 0.5}, [True, True]),  # 1 and 2 are both clipped to ½
        ({"overlong": {"max_length": 4, "buffer": 2}}, [False, False]),  # 2 tokens lose nothing, 3 lose ½
        ({"clip": 0.5, "overlong": {"max_length": 8, "buffer": 2}}, [True, True]),  # none of them comes near 8
    ],
)
def test_it_is_the_shaped_rewards_that_are_equal_or_not(shaping: dict[str, Any], constant: list[bool]) -> None:
    batch = Batch.of([answered(1.0, 2.0), of_lengths(2, 3)])
    assert constant_groups(batch, ShapingConfig.model_validate(shaping)) == constant
