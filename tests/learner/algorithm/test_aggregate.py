import pytest
import torch

from areal.learner.algorithm.aggregate import Aggregation, action_weights

# five trajectories of three groups; the one without a kept action is alone in its group
NUM_KEPT = torch.tensor([2, 6, 0, 1, 3])
GROUPS = torch.tensor([7, -1, 3, 7, -1])


@pytest.mark.parametrize(
    ("by", "weights"),
    [
        pytest.param("token", [1 / 12, 1 / 12, 0, 1 / 12, 1 / 12], id="12 actions"),
        pytest.param("sequence", [1 / 8, 1 / 24, 0, 1 / 4, 1 / 12], id="4 trajectories with actions"),
        pytest.param("group", [1 / 6, 1 / 18, 0, 1 / 6, 1 / 18], id="2 groups with actions, of 3 and 9"),
        pytest.param("fixed", [1 / 50, 1 / 50, 0, 1 / 50, 1 / 50], id="5 trajectories of 10 at most"),
    ],
)
def test_weights_pinned_by_hand(by: Aggregation, weights: list[float]) -> None:
    found = action_weights(NUM_KEPT, GROUPS, by=by, max_length=10)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize("by", ["token", "sequence", "group", "fixed"])
def test_the_weighted_sum_is_the_mean_it_says(by: Aggregation) -> None:
    generator = torch.Generator().manual_seed(0)
    num_kept, groups = torch.randint(0, 9, (30,), generator=generator), torch.randint(0, 6, (30,), generator=generator)
    losses = [torch.rand(n, generator=generator).tolist() for n in num_kept.tolist()]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    every, by_group = [loss for row in losses for loss in row], dict[int, list[float]]()
    for group, row in zip(groups.tolist(), losses, strict=True):
        by_group.setdefault(group, []).extend(row)
    expected = {
        "token": mean(every),
        "sequence": mean([mean(row) for row in losses if row]),
        "group": mean([mean(row) for row in by_group.values() if row]),
        "fixed": sum(every) / (30 * 8),
    }
    weights = action_weights(num_kept, groups, by=by, max_length=8).tolist()
    total = sum(weight * sum(row) for weight, row in zip(weights, losses, strict=True))
    assert total == pytest.approx(expected[by], rel=1e-6)


@pytest.mark.parametrize("by", ["token", "sequence", "group"])
def test_a_constant_loss_is_its_own_mean(by: Aggregation) -> None:
    weights = action_weights(NUM_KEPT, GROUPS, by=by, max_length=10)
    assert (weights * NUM_KEPT).sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("by", ["token", "sequence", "group", "fixed"])
def test_nothing_kept_weighs_nothing(by: Aggregation) -> None:
    assert action_weights(torch.tensor([0, 0]), torch.tensor([1, 2]), by=by, max_length=4).tolist() == [0.0, 0.0]
    none = torch.zeros(0, dtype=torch.long)
    assert action_weights(none, none, by=by, max_length=4).tolist() == []


def test_refuses_trajectories_without_length() -> None:
    with pytest.raises(ValueError, match="max_length is 0"):
        action_weights(NUM_KEPT, GROUPS, by="fixed", max_length=0)
