"""What the roles of a run want of a cluster, by its configuration, and how many of them a node may come to have."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from ..cluster_config import ClusterConfig
from ..roles import LEARNER, ROLLOUT
from .fit import GPU, SLOT, Capacity, Need, Wanted, learner_nodes
from .gpus import GpuShares


def needs_of(config: ClusterConfig, shares: GpuShares) -> dict[str, Need]:
    """What a role takes of its node, by its kind."""
    return {
        LEARNER: _need(config, LEARNER, shares.learner),
        ROLLOUT: _need(config, ROLLOUT, shares.rollout),
    }


def wanted_of(config: ClusterConfig, needs: Mapping[str, Need], *, ranks: int, workers: int) -> Wanted:
    """So many ranks of the learner and rollout workers, and how they are to lie."""
    return Wanted(
        ranks=ranks,
        rank=needs[LEARNER],
        workers=workers,
        worker=needs[ROLLOUT],
        affinity="any" if config.address is None else config.affinity,
        strategy=config.strategy,
    )


def loads(node: Capacity, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """The numbers of ranks that a node may come to have, each with the most workers that there may be beside them."""
    for ranks in (0, wanted.ranks) if wanted.strategy == "strict_pack" else range(wanted.ranks + 1):
        here = replace(wanted, ranks=ranks)
        if _is_too_many(node, here, 0):
            return
        yield ranks, bisect_left(range(1, wanted.workers + 1), True, key=partial(_is_too_many, node, here))


def _is_too_many(node: Capacity, wanted: Wanted, workers: int) -> bool:
    return learner_nodes([node], replace(wanted, workers=workers)) is None


def _need(config: ClusterConfig, role: str, dealt: float) -> Need:
    given = config.resources.learner if role == LEARNER else config.resources.rollout
    gpus = dealt if given.gpus is None else given.gpus
    counted = {SLOT: 1.0} if config.address is None else {"CPU": given.cpus, **given.custom}
    return Need(counted | ({GPU: gpus} if gpus else {}))
