import json
import random
import statistics

import pytest
import torch

from areal.learner.algorithm.running import Key, PromptStatistics


def test_pinned_by_hand() -> None:
    tracker = PromptStatistics(size=4, min_count=2, max_keys=10, eps=0.0)
    # "b" has one reward: the batch, mean 3, variance (4 + 0 + 4)/3; "a": mean 2, deviation 1
    first = tracker.update(["a", "a", "b"], torch.tensor([1.0, 3.0, 5.0]))
    assert first.tolist() == pytest.approx([-1.0, 1.0, 2 / (8 / 3) ** 0.5])
    # "b" now has 5 and 1: mean 3, deviation 2
    assert tracker.update(["b"], torch.tensor([1.0])).tolist() == [-1.0]
    # "a" has 1, 3, 7, 9, of which 4 are kept: mean 5, variance (16 + 4 + 4 + 16)/4 = 10
    assert tracker.update(["a", "a"], torch.tensor([7.0, 9.0])).tolist() == pytest.approx([2 / 10**0.5, 4 / 10**0.5])
    # the 1 is forgotten: 3, 7, 9, 9, mean 7, variance (16 + 0 + 4 + 4)/4 = 6
    assert tracker.update(["a"], torch.tensor([9.0])).tolist() == pytest.approx([2 / 6**0.5])


def test_advantages_are_clipped_and_rewards_are_remembered_as_they_are() -> None:
    """Nine times 0 and a 10 have mean 1 and deviation 3."""
    for clip, wanted in ((None, [-1 / 3] * 9 + [3]), (2.5, [-1 / 3] * 9 + [2.5]), (0.25, [-0.25] * 9 + [0.25])):
        tracker = PromptStatistics(size=20, min_count=2, max_keys=1, clip=clip, eps=0.0)
        assert tracker.update(["a"] * 10, torch.tensor([0.0] * 9 + [10.0])).tolist() == pytest.approx(wanted)
        assert tracker.state() == {"rewards": [["a", [0.0] * 9 + [10.0]]]}


def test_equals_a_loop_over_the_whole_history() -> None:
    dice = random.Random(0)
    tracker = PromptStatistics(size=5, min_count=3, max_keys=100)
    history: dict[int, list[float]] = {}
    for _ in range(30):
        keys = [dice.randrange(6) for _ in range(8)]
        rewards = [dice.random() for _ in keys]
        advantages = tracker.update(keys, torch.tensor(rewards))
        for key, reward in zip(keys, rewards, strict=True):
            history.setdefault(key, []).append(reward)
        for key, reward, advantage in zip(keys, rewards, advantages.tolist(), strict=True):
            scope = history[key][-5:] if len(history[key]) >= 3 else rewards
            expected = (reward - statistics.fmean(scope)) / (statistics.pstdev(scope) + 1e-6)
            assert advantage == pytest.approx(expected, abs=1e-5)


def test_integers_and_strings_are_different_keys() -> None:
    tracker = PromptStatistics(size=2, min_count=1, max_keys=10)
    assert tracker.update([1, "1"], torch.tensor([0.0, 9.0])).tolist() == [0.0, 0.0]
    assert len(tracker) == 2


def test_equal_rewards_have_no_advantage() -> None:
    tracker = PromptStatistics(size=9, min_count=2, max_keys=10)
    assert tracker.update(["a"] * 3, torch.tensor([0.1] * 3)).tolist() == [0.0] * 3


def test_keys_longest_out_of_use_are_forgotten() -> None:
    tracker = PromptStatistics(size=4, min_count=1, max_keys=2)
    tracker.update(["a", "b"], torch.tensor([0.0, 0.0]))
    tracker.update(["a"], torch.tensor([1.0]))
    tracker.update(["c"], torch.tensor([2.0]))
    assert tracker.state() == {"rewards": [["a", [0.0, 1.0]], ["c", [2.0]]]}


def test_a_batch_of_more_keys_than_fit_is_measured_whole() -> None:
    tracker = PromptStatistics(size=4, min_count=2, max_keys=1, eps=0.0)
    advantages = tracker.update(["a", "a", "b", "b"], torch.tensor([1.0, 3.0, 5.0, 9.0]))
    assert advantages.tolist() == [-1.0, 1.0, -1.0, 1.0]
    assert tracker.state() == {"rewards": [["b", [5.0, 9.0]]]}


def test_what_is_compared_is_remembered_when_it_is_kept() -> None:
    """A comparison that is not kept changes no later one, nor the order in which prompts are forgotten."""
    tracker = PromptStatistics(size=4, min_count=2, max_keys=2, eps=0.0)
    tracker.update(["a", "b"], torch.tensor([1.0, 5.0]))
    before = tracker.state()
    assert tracker.compare(["a", "c"], torch.tensor([3.0, 9.0])).tolist() == [1.0, 1.0]  # "c" has the batch: 6 and 3
    assert tracker.state() == before == {"rewards": [["a", [1.0]], ["b", [5.0]]]}
    assert tracker.compare(["a"], torch.tensor([7.0])).tolist() == [1.0]  # 1 and 7: mean 4, deviation 3
    tracker.keep()
    tracker.keep()
    assert tracker.state() == {"rewards": [["b", [5.0]], ["a", [1.0, 7.0]]]}


def test_continues_from_a_state_written_as_json() -> None:
    def tracker() -> PromptStatistics:
        return PromptStatistics(size=3, min_count=2, max_keys=3)

    original, copy = tracker(), tracker()
    keys: list[Key] = [1, "1", "x", 1]
    original.update(keys, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    copy.load(json.loads(json.dumps(original.state())))
    assert copy.state() == original.state()
    later: list[Key] = ["1", "y", 1, "z"]
    rewards = torch.tensor([0.5, 0.6, 0.7, 0.8])
    assert copy.update(later, rewards).tolist() == original.update(later, rewards).tolist()
    assert copy.state() == original.state()


def test_a_state_shrinks_to_the_present_bounds() -> None:
    tracker = PromptStatistics(size=2, min_count=1, max_keys=1)
    tracker.load({"rewards": [["a", [1.0]], ["b", [1.0, 2.0, 3.0]]]})
    assert tracker.state() == {"rewards": [["b", [2.0, 3.0]]]}


def test_nothing_in_nothing_out() -> None:
    advantages = PromptStatistics(size=2, min_count=1, max_keys=1).update([], torch.zeros(0))
    assert advantages.shape == (0,) and advantages.dtype == torch.float32


def test_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"rewards \[2\] and 1 keys"):
        PromptStatistics(size=2, min_count=1, max_keys=1).update(["a"], torch.zeros(2))


@pytest.mark.parametrize(("size", "min_count", "max_keys"), [(2, 3, 1), (2, 0, 1), (2, 1, 0)])
def test_refuses_bounds_out_of_range(size: int, min_count: int, max_keys: int) -> None:
    with pytest.raises(ValueError, match="not"):
        PromptStatistics(size=size, min_count=min_count, max_keys=max_keys)
    with pytest.raises(ValueError, match="clip is 0, not positive"):
        PromptStatistics(size=2, min_count=1, max_keys=1, clip=0)
