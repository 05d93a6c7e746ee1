from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from areal.broker.lane import Delivery, Receipt
from areal.broker.trajectory import Group, TokenTrajectory
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.config import LearnerConfig
from areal.learner.intake import Intake, gather


def delivery(position: int, *rewards: float) -> Delivery:
    """A group of answers of one token; the part `right` is known of those that earn anything."""
    tokens, versions, logprobs = np.array([1, 3], np.int32), np.array([-1, 0], np.int32), np.zeros(2, np.float32)
    answers = [TokenTrajectory(tokens, versions, logprobs, r, {"right": 2 * r} if r else {}) for r in rewards]
    return Delivery(Receipt(f"{position}-0", position, "claim", 1), Group(position, tuple(answers)))


class Stub:
    """A source of these groups; says that it was told to stop when there are no more."""

    def __init__(self, *deliveries: Delivery) -> None:
        self.left = list(deliveries)

    def take(self, count: int, *, timeout_s: float, idle: Callable[[], bool]) -> list[Delivery]:
        if len(self.left) < count:
            return []
        taken, self.left = self.left[:count], self.left[count:]
        return taken


class Training:
    learner = LearnerConfig(groups_per_step=2)

    def __init__(self, **filters: Any) -> None:
        self.algorithm = AlgorithmConfig.model_validate({"filters": filters})


def gathered(source: Stub, **filters: Any) -> tuple[Intake, list[int], list[str]]:
    """What came in, which positions were passed over, and what was warned of."""
    passed: list[int] = []
    warned: list[str] = []
    intake = gather(
        source,  # type: ignore[arg-type]
        Training(**filters),  # type: ignore[arg-type]
        idle=lambda: False,
        pass_over=lambda given: passed.extend(each.group.prompt_id for each in given),
        warn=warned.append,
    )
    return intake, passed, warned


def positions(intake: Intake) -> list[int]:
    return [each.group.prompt_id for each in intake.deliveries]


STREAM = (delivery(0, 1, 1), delivery(1, 0, 1), delivery(2, 1, 1), delivery(3, 1, 0), delivery(4, 1, 0))


def test_groups_without_variance_are_taken_as_they_come() -> None:
    intake, passed, warned = gathered(Stub(*STREAM))
    assert (positions(intake), passed, warned) == ([0, 1], [], [])
    assert intake.rewards.means() == {"reward_mean": 0.75, "reward_parts": {"right": 2.0}}


def test_others_take_their_place_and_the_reward_is_of_all_that_came() -> None:
    source = Stub(*STREAM)
    intake, passed, warned = gathered(source, constant="replace")
    assert (positions(intake), passed, warned) == ([1, 3], [0, 2], [])
    # 6 answers of 8 were right, 2 of the 4 that are learned from
    assert intake.rewards.means() == {"reward_mean": 0.75, "reward_parts": {"right": 2.0}}
    assert [each.group.prompt_id for each in source.left] == [4]


def test_no_more_than_so_many_are_replaced() -> None:
    flat = [delivery(position, 1, 1) for position in range(5)]
    intake, passed, warned = gathered(Stub(*flat), constant="replace", max_replaced=1)
    assert (positions(intake), passed) == ([2, 3], [0, 1])
    assert len(warned) == 1 and "filters.max_replaced" in warned[0]
    assert intake.rewards.means()["reward_mean"] == 1.0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_comes_of_what_is_cut_short(count: int) -> None:
    intake, _, _ = gathered(Stub(*STREAM[:count]), constant="replace")
    assert intake.deliveries == []
