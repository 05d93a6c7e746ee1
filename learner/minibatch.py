"""A batch dealt into minibatches, one for each update, and those into micro-batches, one for each pass.

Legend: S trajectories of a batch, M actions of a micro-batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..broker.trajectory import TokenTrajectory
from .batch import Batch
from .packing import PackedBatch, pack, split_by_tokens
from .ranks import ALONE, Ranks
from .steps import StepBatch, flatten


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass works on: whole trajectories, whose M actions lie at `index_M` (int64) of the batch's row.

    Where `counts` is false they are another rank's, and the pass is there to keep it company. `size` is that of the
    trajectories that the pass was asked for, in tokens or denoising steps: of none then.
    """

    packed: PackedBatch | StepBatch
    index_M: Tensor
    size: int
    counts: bool = True

    @property
    def padding(self) -> int:
        """The tokens or steps that the model's layers see and nobody needs."""
        return self.packed.size - self.size


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """What one update works on: groups of the batch by their place, and the passes over what there is to learn in them."""

    groups: list[int]
    microbatches: list[MicroBatch]


def groups_of(number: int, count: int, num_groups: int) -> range:
    """The groups of the minibatch of that number, of `count`: dealt in turn."""
    return range(number, num_groups, count)


def deal(
    batch: Batch, needed_S: Tensor, *, count: int, budget: int, ranks: Ranks = ALONE, pairs: bool = False
) -> list[MiniBatch]:
    """`count` minibatches; trajectories that are not needed (bool[S]) get no pass."""
    group_of, needed = batch.group_ids_S.tolist(), needed_S.tolist()
    minibatches = []
    for number in range(min(count, len(batch.groups))):
        groups = groups_of(number, count, len(batch.groups))
        members = [place for place, group in enumerate(group_of) if group in groups and needed[place]]
        minibatches.append(MiniBatch(list(groups), microbatches(batch, members, budget, ranks, pairs=pairs)))
    return minibatches


def microbatches(
    batch: Batch, members: Iterable[int], budget: int, ranks: Ranks = ALONE, *, pairs: bool = False
) -> list[MicroBatch]:
    """This rank's passes over these trajectories, each within `budget` tokens or steps; see split_by_tokens.

    Of `pairs`, the first two of a group, the next two and so on share a pass and follow each other in it; an odd one
    out gets none. All ranks make as many passes, the n-th of each about as long: they wait for each other in every layer.
    """
    units, sizes_S = _units(batch, members, pairs=pairs), batch.sizes_S
    lengths = [sum(sizes_S[place] for place in unit) for unit in units]
    parts = split_by_tokens(lengths, budget, multiple=ranks.count)
    if ranks.count > 1:
        parts.sort(key=lambda part: -sum(lengths[item] for item in part))
    made = []
    for part in ranks.own(parts):
        chosen = [place for item in part for place in units[item]]
        taken = chosen or _shortest(batch, sizes_S, pairs=pairs)
        size = sum(sizes_S[place] for place in chosen)
        made.append(MicroBatch(_laid(batch, taken), batch.index_of(taken), size, counts=bool(chosen)))
    return made


def _units(batch: Batch, members: Iterable[int], *, pairs: bool) -> list[list[int]]:
    """What cannot be cut: trajectories by their place, or pairs of a group."""
    if not pairs:
        return [[place] for place in members]
    group_of, found = batch.group_ids_S.tolist(), dict[int, list[int]]()
    for place in members:
        found.setdefault(group_of[place], []).append(place)
    return [places[at : at + 2] for places in found.values() for at in range(0, len(places) - 1, 2)]


def _shortest(batch: Batch, sizes_S: Sequence[int], *, pairs: bool) -> list[int]:
    """What a pass for company is over."""
    every = _units(batch, range(len(sizes_S)), pairs=pairs)
    return min(every, key=lambda unit: sum(sizes_S[place] for place in unit))


def _laid(batch: Batch, places: Sequence[int]) -> PackedBatch | StepBatch:
    trajectories = [batch.trajectories[place] for place in places]
    texts = [trajectory for trajectory in trajectories if isinstance(trajectory, TokenTrajectory)]
    if len(texts) == len(trajectories):
        return pack(texts)
    images = [trajectory for trajectory in trajectories if not isinstance(trajectory, TokenTrajectory)]
    return flatten(images, [batch.positions_of(place) for place in places])
