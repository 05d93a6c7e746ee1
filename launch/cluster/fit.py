"""Whether the roles of a run fit on the nodes of a cluster when nothing else runs there, and where the learner then is.

One pass over the nodes, which keeps for each number of ranks placed so far the most workers that have room beside them:
exact, as there are but two kinds of roles.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

SLACK = 1e-6
"""Ray counts in ten thousandths, and shares are rounded."""
GPU = "GPU"
SLOT = "areal-role"
"""What a role takes of a Ray that is started here: there is one machine, which has as many as are wanted."""
RAYS_OWN = re.compile(rf"node:|memory|object_store_memory|accelerator_type:|bundle_|{SLOT}|.*_group_")


@dataclass(frozen=True, slots=True)
class Need:
    """What a role takes of a node, by Ray's names."""

    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has, used or not."""

    id: str
    host: str
    total: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ranks of the learner and rollout workers, what each takes, and how they lie: see ClusterConfig."""

    ranks: int
    rank: Need
    workers: int
    worker: Need
    affinity: str = "any"
    strategy: str = "pack"


@dataclass(frozen=True, slots=True, order=True)
class _Plan:
    workers: int = 0
    minus_nodes: int = 0
    nodes: tuple[str, ...] = field(default=(), compare=False)


def learner_nodes(
    nodes: Sequence[Capacity], wanted: Wanted, *, taken: AbstractSet[str] = frozenset()
) -> set[str] | None:
    """The nodes, as few as can be, that the ranks may have so that all fit; None if they do not. No rank is put on one `taken`."""
    plans = {0: _Plan()}
    for node in nodes:
        plans = _with(plans, node, replace(wanted, ranks=0) if node.id in taken else wanted, wanted.ranks)
    whole = plans.get(wanted.ranks)
    return set(whole.nodes) if whole is not None and whole.workers >= wanted.workers else None


def _with(plans: Mapping[int, _Plan], node: Capacity, here: Wanted, all_ranks: int) -> dict[int, _Plan]:
    """The best plans once a node more may be used."""
    best: dict[int, _Plan] = {}
    for count in _counts(node, here):
        workers = _workers_beside(count, node, here)
        for placed, plan in plans.items():
            if placed + count > all_ranks:
                continue
            more = _Plan(
                min(plan.workers + workers, here.workers),
                plan.minus_nodes - bool(count),
                (*plan.nodes, node.id) if count else plan.nodes,
            )
            if placed + count not in best or best[placed + count] < more:
                best[placed + count] = more
    return best


def _counts(node: Capacity, wanted: Wanted) -> Iterator[int]:
    """How many ranks a node may have."""
    yield 0
    most = min(wanted.ranks, room(node.total, wanted.rank))
    if wanted.strategy == "strict_pack":
        if most == wanted.ranks > 0:
            yield most
    elif wanted.strategy == "strict_spread":
        yield from range(1, min(most, 1) + 1)
    else:
        yield from range(1, most + 1)


def _workers_beside(ranks: int, node: Capacity, wanted: Wanted) -> int:
    if (wanted.affinity == "apart" and ranks) or (wanted.affinity == "together" and not ranks):
        return 0
    left = {name: has - ranks * wanted.rank.resources.get(name, 0.0) for name, has in node.total.items()}
    return min(wanted.workers, room(left, wanted.worker))


def room(has: Mapping[str, float], need: Need) -> int:
    """How many of that need there is room for."""
    counts = []
    for name, each in need.resources.items():
        there = has.get(name, 0.0)
        if name == GPU and each < 1:  # no share reaches over two
            whole, part = divmod(there + SLACK, 1)
            counts.append(int(whole) * math.floor(1 / each + SLACK) + math.floor(part / each + SLACK))
        else:
            counts.append(math.floor(there / each + SLACK))
    return max(0, min(counts))


def told_resources(resources: Mapping[str, float]) -> str:
    """In words, for a message: what Ray adds for itself is left out."""
    named = [f"{count:g} {name}" for name, count in sorted(resources.items()) if count and not RAYS_OWN.match(name)]
    return ", ".join(named) or "nothing"
