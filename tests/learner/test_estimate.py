import numpy as np
import pytest
import torch

from areal.broker.trajectory import Group, TokenTrajectory
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.batch import Batch
from areal.learner.estimate import Estimator


def answered(versions: list[int], reward: float) -> TokenTrajectory:
    given = np.array(versions, np.int32)
    logprobs = np.where(given >= 0, -1.0, 0).astype(np.float32)
    return TokenTrajectory(np.ones(len(versions), np.int32), given, logprobs, reward)


GROUPS = [
    Group(0, (answered([-1, 0, 0], 1.0), answered([-1, 0], 0.0))),
    Group(1, (answered([-1, 0], 4.0), answered([-1, 0, -1, 0], 2.0))),
]
EVERY = torch.ones(6, dtype=torch.bool)


def estimator(**options: object) -> Estimator:
    return Estimator(AlgorithmConfig.model_validate(options), identity=lambda position: position % 2)


def advantages(reference: torch.Tensor | None = None, **options: object) -> list[float]:
    found: list[float] = estimator(**options).advantages(Batch.of(GROUPS), EVERY, reference).tolist()
    return found


def test_each_action_gets_its_trajectory_s_advantage() -> None:
    root = 0.5**0.5  # a group's deviation is 1/√2, or √2
    assert advantages() == pytest.approx([root, root, -root, root, -root, -root], abs=1e-5)
    assert advantages(advantage={"name": "dr_grpo"}) == [0.5, 0.5, -0.5, 1.0, -1.0, -1.0]
    assert advantages(advantage={"name": "rloo"}) == [1.0, 1.0, -1.0, 2.0, -2.0, -2.0]


def test_rewards_are_shaped_first() -> None:
    """(r − 1)·2 clipped to ±3 is 0, −2, 3, 2; from 1 token on an answer loses 1 for each beyond."""
    shaping = {"scale": 2.0, "bias": -1.0, "clip": 3.0, "overlong": {"max_length": 2, "buffer": 1, "factor": 1.0}}
    found = advantages(advantage={"name": "dr_grpo"}, shaping=shaping)
    # with the penalty: −1, −2, 3, 1
    assert found == pytest.approx([0.5, 0.5, -0.5, 1.0, -1.0, -1.0])


def test_earlier_turns_are_discounted() -> None:
    """The last trajectory has two turns."""
    found = advantages(advantage={"name": "dr_grpo"}, shaping={"turn_discount": 0.5})
    assert found == [0.5, 0.5, -0.5, 1.0, -0.5, -1.0]


def test_a_kl_term_is_taken_off_the_reward() -> None:
    """k1 is −1 − log π_ref: 0, 2, 0, … of each action; β = 0.1."""
    reference = torch.tensor([-1.0, -3.0, -1.0, -1.0, -1.0, -1.0])
    kl = {"coefficient": 0.1, "estimator": "k1", "where": "reward"}
    assert advantages(reference, advantage={"name": "dr_grpo"}, kl=kl) == pytest.approx(
        [0.4, 0.4, -0.4, 1.0, -1.0, -1.0]
    )


def test_reinforce_pp_normalises_what_is_to_come_over_the_tokens() -> None:
    """To come: 1 − 0.2, 1 − 0.2 (its own KL counts), 0, 4, 2, 2; or with the group's mean gone 0.5 − 0.2, …"""
    reference = torch.tensor([-1.0, -3.0, -1.0, -1.0, -1.0, -1.0])
    kl = {"coefficient": 0.1, "estimator": "k1", "where": "reward"}
    for baseline, wanted in ((False, [0.8, 0.8, 0, 4, 2, 2]), (True, [0.3, 0.3, -0.5, 1, -1, -1])):
        found = advantages(reference, advantage={"name": "reinforce_pp", "group_baseline": baseline}, kl=kl)
        values = np.array(wanted)
        assert found == pytest.approx(((values - values.mean()) / values.std()).tolist(), abs=1e-4)


def test_per_prompt_advantages_are_clipped() -> None:
    """Measured against the batch, 1, 0, 4 and 2, of mean 7/4 and variance 35/16: −0.51, −1.18, 1.52 and 0.17."""
    found = advantages(advantage={"name": "per_prompt", "min_count": 3, "memory": 8, "clip": 1.0})
    first, last = -0.75 / (35 / 16) ** 0.5, 0.25 / (35 / 16) ** 0.5
    assert found == pytest.approx([first, first, -1, 1, last, last], abs=1e-5)


def test_per_prompt_statistics_are_kept_between_steps_and_over_a_resume() -> None:
    config = {"advantage": {"name": "per_prompt", "min_count": 3, "memory": 8}}
    first = estimator(**config)
    first.advantages(Batch.of(GROUPS), EVERY, None)
    first.keep()
    second = estimator(**config)
    second.load(first.state())
    found = second.advantages(Batch.of(GROUPS), EVERY, None)
    # row 0 has by now been paid 1, 0, 1, 0 and row 1 4, 2, 4, 2: mean ½ and deviation ½, mean 3 and deviation 1
    assert found.tolist() == pytest.approx([1, 1, -1, 1, -1, -1], abs=1e-3)


def test_gae_pinned_by_hand() -> None:
    """γ = 1, λ = ½; values ½ everywhere. Last actions: r − ½; before one: 0 + ½·(what comes after)."""
    made = estimator(advantage={"name": "gae", "lam": 0.5, "normalise": False})
    found, returns = made.with_critic(Batch.of(GROUPS), EVERY, None, torch.full((6,), 0.5))
    assert found.tolist() == pytest.approx([0.25, 0.5, -0.5, 3.5, 0.75, 1.5])
    assert returns.tolist() == pytest.approx([0.75, 1.0, 0.0, 4.0, 1.25, 2.0])
