"""How many of a run's roles a node of a cluster may come to have, so far as Ray counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..cluster.demand import loads
from ..cluster.fit import Wanted
from ..cluster.nodes import SurveyedNode


@dataclass(frozen=True, slots=True)
class Seats:
    """Of a node that answered: the numbers of ranks, each with the most workers that there may be beside them."""

    node: SurveyedNode
    loads: Sequence[tuple[int, int]]

    @property
    def for_ranks(self) -> bool:
        """Whether a rank of the learner may be there."""
        return any(ranks for ranks, _ in self.loads)

    @property
    def for_workers(self) -> bool:
        """Whether a rollout worker may be there."""
        return any(workers for _, workers in self.loads)

    def heaviest(self, rank: float, worker: float) -> tuple[int, int]:
        """The ranks and workers that together take the most, of which each takes so much."""
        return max(self.loads, key=lambda load: load[0] * rank + load[1] * worker)


def seats_on(nodes: Sequence[SurveyedNode], wanted: Wanted) -> list[Seats]:
    """Of each of these nodes."""
    return [Seats(node, list(loads(node.place, wanted))) for node in nodes]


def may_part(seats: Sequence[Seats], wanted: Wanted) -> bool:
    """Whether ranks may come to lie on several of these nodes."""
    several = sum(each.for_ranks for each in seats) > 1
    return several and wanted.ranks > 1 and wanted.strategy != "strict_pack"
