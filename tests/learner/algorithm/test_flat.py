import torch

from areal.learner.algorithm.flat import segment_mean, segment_sum

VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0])
SEGMENTS = torch.tensor([2, 0, 2, 0])


def test_sums_and_means_pinned_by_hand() -> None:
    assert segment_sum(VALUES, SEGMENTS, 4).tolist() == [6.0, 0.0, 4.0, 0.0]
    assert segment_mean(VALUES, SEGMENTS, 4).tolist() == [3.0, 0.0, 2.0, 0.0]


def test_a_mean_is_over_what_is_kept() -> None:
    keep = torch.tensor([False, True, True, True])
    assert segment_mean(VALUES, SEGMENTS, 3, keep).tolist() == [3.0, 0.0, 3.0]
    assert segment_mean(VALUES, SEGMENTS, 3, ~keep).tolist() == [0.0, 0.0, 1.0]


def test_the_gradient_reaches_every_entry_of_its_segment() -> None:
    values = VALUES.clone().requires_grad_()
    (segment_mean(values, SEGMENTS, 3) * torch.tensor([1.0, 5.0, 10.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [5.0, 0.5, 5.0, 0.5]
