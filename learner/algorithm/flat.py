"""Sums and means over the segments of a flat tensor.

Legend: A entries of a flat tensor (actions, say), S segments (trajectories, groups); `segment_ids_A` int64[A] tells which
segment each entry belongs to, in any order.
"""

import torch
from torch import Tensor


def segment_sum(values_A: Tensor, segment_ids_A: Tensor, num_segments: int) -> Tensor:
    """[S], the sum of each segment, 0 where it has no entry; differentiable."""
    return values_A.new_zeros(num_segments).index_add(0, segment_ids_A, values_A)


def segment_mean(values_A: Tensor, segment_ids_A: Tensor, num_segments: int, keep_A: Tensor | None = None) -> Tensor:
    """[S], the mean of each segment over the entries that `keep_A` (bool[A]) keeps, 0 where there is none."""
    kept_A = torch.ones_like(values_A) if keep_A is None else keep_A.to(values_A.dtype)
    sum_S = segment_sum(values_A * kept_A, segment_ids_A, num_segments)
    return sum_S / segment_sum(kept_A, segment_ids_A, num_segments).clamp(min=1.0)
