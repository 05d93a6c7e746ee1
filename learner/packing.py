"""Trajectories laid end to end: no padding between them, and nothing attends across.

Legend: N tokens and S segments (trajectories) of a micro-batch, A actions in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..broker.trajectory import TokenTrajectory


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch of token trajectories. The action tensors run in the order of the tokens.

    tokens         int64[N]
    positions      int64[N], from 0 in every segment
    cu_lengths     int64[S+1], where each segment starts, and N
    predict_index  int64[A], the token whose hidden state predicts the action: the one before it
    action_tokens  int64[A]
    segment_ids    int64[A], which segment the action belongs to
    """

    tokens: Tensor
    positions: Tensor
    cu_lengths: Tensor
    predict_index: Tensor
    action_tokens: Tensor
    segment_ids: Tensor

    @property
    def num_segments(self) -> int:
        return len(self.cu_lengths) - 1

    @property
    def num_actions(self) -> int:
        return len(self.action_tokens)

    @property
    def size(self) -> int:
        """The tokens that the model's layers see."""
        return len(self.tokens)

    def to(self, device: torch.device | str) -> "PackedBatch":
        return PackedBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def pack(trajectories: Sequence[TokenTrajectory]) -> PackedBatch:
    """The micro-batch of these trajectories, a segment each, in their order."""
    if not trajectories:
        raise ValueError("there is no trajectory to pack")
    lengths_S = np.array([len(t.tokens) for t in trajectories])
    cu_lengths = np.concatenate([[0], np.cumsum(lengths_S)])
    segments_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
    actions_N = np.concatenate([t.action_mask for t in trajectories])
    if actions_N[cu_lengths[:-1]].any():
        first = int(actions_N[cu_lengths[:-1]].argmax())
        raise ValueError(f"the first token of trajectory {first} is an action: nothing before it predicts it")
    tokens_N = np.concatenate([t.tokens for t in trajectories]).astype(np.int64)
    index_A = np.flatnonzero(actions_N)
    return PackedBatch(
        tokens=torch.from_numpy(tokens_N),
        positions=torch.from_numpy(np.arange(len(tokens_N)) - cu_lengths[segments_N]),
        cu_lengths=torch.from_numpy(cu_lengths),
        predict_index=torch.from_numpy(index_A - 1),
        action_tokens=torch.from_numpy(tokens_N[index_A]),
        segment_ids=torch.from_numpy(segments_N[index_A]),
    )


def split_by_tokens(lengths: Sequence[int], budget: int, *, multiple: int = 1) -> list[list[int]]:
    """Micro-batches as lists of indices into `lengths`, each within `budget` tokens; a longer item stands alone.

    Their number is a multiple of `multiple`; some may be empty where there are fewer items than that.

    First-fit decreasing says how few are enough (at most 11/9 of the fewest possible, and one); the items are then
    dealt out longest first, each to the micro-batch with the fewest tokens, so that all cost about the same. Where
    the even deal does not fit into that few, the first-fit packing stands. Compare algorithm 1 of arXiv 2505.24298,
    which balances the number of sequences instead of tokens. Deterministic: the same lengths, the same split.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget} tokens, not at least 1")
    longest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    alone = [[index] for index in longest_first if lengths[index] > budget]
    rest = longest_first[len(alone) :]
    tight = _first_fit(rest, lengths, budget)
    missing = -(len(alone) + len(tight)) % multiple
    even = _even_deal(rest, lengths, budget, len(tight) + missing)
    return [sorted(bin_) for bin_ in alone + (even or tight + [[] for _ in range(missing)])]


def _first_fit(items: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Each item into the first bin with room for it, or a new one."""
    bins: list[list[int]] = []
    loads: list[int] = []
    for item in items:
        chosen = next((i for i, load in enumerate(loads) if load + lengths[item] <= budget), len(bins))
        if chosen == len(bins):
            bins.append([])
            loads.append(0)
        bins[chosen].append(item)
        loads[chosen] += lengths[item]
    return bins


def _even_deal(items: list[int], lengths: Sequence[int], budget: int, num_bins: int) -> list[list[int]] | None:
    """Each item into the emptiest of so many bins, or None if one does not fit."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for item in items:
        chosen = min(range(num_bins), key=loads.__getitem__)
        bins[chosen].append(item)
        loads[chosen] += lengths[item]
        if loads[chosen] > budget:
            return None
    return bins
