"""A batch dealt into minibatches, one for each update, and those into micro-batches, one for each pass.

Legend: S trajectories of a batch, M actions of a micro-batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .batch import Batch
from .packing import PackedBatch, pack, split_by_tokens
from .ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass works on: whole trajectories, whose M actions lie at `index_M` (int64) of the batch's row.

    Where `counts` is false they are another rank's, and the pass is there to keep it company. `num_tokens` are those of
    the trajectories that the pass was asked for: of none then.
    """

    packed: PackedBatch
    index_M: Tensor
    num_tokens: int
    counts: bool = True

    @property
    def padding(self) -> int:
        """The tokens that the model's layers see and nobody needs."""
        return len(self.packed.tokens) - self.num_tokens


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """What one update works on: groups of the batch by their place, and the passes over what there is to learn in them."""

    groups: list[int]
    microbatches: list[MicroBatch]


def groups_of(number: int, count: int, num_groups: int) -> range:
    """The groups of the minibatch of that number, of `count`: dealt in turn."""
    return range(number, num_groups, count)


def deal(batch: Batch, needed_S: Tensor, *, count: int, budget: int, ranks: Ranks = ALONE) -> list[MiniBatch]:
    """`count` minibatches; trajectories that are not needed (bool[S]) get no pass."""
    group_of, needed = batch.group_ids_S.tolist(), needed_S.tolist()
    minibatches = []
    for number in range(min(count, len(batch.groups))):
        groups = groups_of(number, count, len(batch.groups))
        members = [place for place, group in enumerate(group_of) if group in groups and needed[place]]
        minibatches.append(MiniBatch(list(groups), microbatches(batch, members, budget, ranks)))
    return minibatches


def microbatches(batch: Batch, members: Iterable[int], budget: int, ranks: Ranks = ALONE) -> list[MicroBatch]:
    """This rank's passes over these trajectories, each within `budget` tokens; see split_by_tokens.

    All ranks make as many, the n-th of each about as long: they wait for each other in every layer.
    """
    places = list(members)
    lengths = [len(batch.trajectories[place].tokens) for place in places]
    parts = split_by_tokens(lengths, budget, multiple=ranks.count)
    if ranks.count > 1:
        parts.sort(key=lambda part: -sum(lengths[item] for item in part))
    return [_pass_over(batch, [places[item] for item in part]) for part in ranks.own(parts)]


def _pass_over(batch: Batch, chosen: Sequence[int]) -> MicroBatch:
    """The pass over these trajectories; over none, one for company over the batch's shortest."""
    taken = chosen or [min(range(len(batch.trajectories)), key=lambda place: len(batch.trajectories[place].tokens))]
    trajectories = [batch.trajectories[place] for place in taken]
    num_tokens = sum(len(batch.trajectories[place].tokens) for place in chosen)
    return MicroBatch(pack(trajectories), batch.index_of(taken), num_tokens, counts=bool(chosen))
