"""A batch dealt into minibatches, one for each update, and those into micro-batches, one for each pass.

Legend: S trajectories of a batch, M actions of a micro-batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from .batch import Batch
from .packing import PackedBatch, pack, split_by_tokens


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass works on: whole trajectories, whose M actions lie at `index_M` (int64) of the batch's row."""

    packed: PackedBatch
    index_M: Tensor
    num_tokens: int


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """What one update works on: groups of the batch by their place, and the passes over what there is to learn in them."""

    groups: list[int]
    microbatches: list[MicroBatch]


def deal(batch: Batch, needed_S: Tensor, *, count: int, budget: int) -> list[MiniBatch]:
    """The groups dealt into `count` minibatches in turn; trajectories that are not needed (bool[S]) get no pass."""
    group_of, needed = batch.group_ids_S.tolist(), needed_S.tolist()
    minibatches = []
    for first in range(min(count, len(batch.groups))):
        groups = range(first, len(batch.groups), count)
        members = [place for place, group in enumerate(group_of) if group in groups and needed[place]]
        minibatches.append(MiniBatch(list(groups), microbatches(batch, members, budget)))
    return minibatches


def microbatches(batch: Batch, members: Iterable[int], budget: int) -> list[MicroBatch]:
    """Passes over these trajectories, each within `budget` tokens; see split_by_tokens."""
    places = list(members)
    parts = split_by_tokens([len(batch.trajectories[place].tokens) for place in places], budget)
    made = []
    for part in parts:
        chosen = [places[item] for item in part]
        trajectories = [batch.trajectories[place] for place in chosen]
        num_tokens = sum(len(trajectory.tokens) for trajectory in trajectories)
        made.append(MicroBatch(pack(trajectories), batch.index_of(chosen), num_tokens))
    return made
