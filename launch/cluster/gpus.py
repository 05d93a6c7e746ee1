"""How many GPUs each role is given of those that a cluster has."""

import math
from dataclasses import dataclass

from ...broker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GpuShares:
    """What a rank of the learner gets, and what a rollout worker gets."""

    learner: float = 0.0
    rollout: float = 0.0


def deal(gpus: int, *, ranks: int, workers: int, per_engine: int) -> GpuShares:
    """Shares that fit on so many GPUs, 0 of none. Raises ConfigError where there are none.

    All roles have their own if there are enough. If not, ranks do, as NCCL takes no two of them on one GPU, and workers
    share what is left evenly, but for engines of several GPUs, which need whole ones. One GPU is shared by all.
    """
    if gpus == 0:
        return GpuShares()
    if gpus >= ranks + workers * per_engine:
        return GpuShares(1, per_engine)
    if per_engine == 1 and gpus > ranks:
        return GpuShares(1, 1 / math.ceil(workers / (gpus - ranks)))
    if per_engine == 1 and ranks == 1:
        return GpuShares(1 / (1 + workers), 1 / (1 + workers))
    wanted = ranks + (workers * per_engine if per_engine > 1 else 1)
    raise ConfigError(
        f"the cluster has {gpus} GPUs, and this run wants {wanted} or more: one for each rank of the learner "
        f"(learner.ranks is {ranks}), and {wanted - ranks} for rollout (rollout.workers is {workers}, "
        f"rollout.engine.tensor_parallel_size {per_engine}; only engines of one GPU can share it). "
        "Lower these, or take a cluster with more GPUs (cluster.address)"
    )


def shares(
    gpus: int,
    *,
    ranks: int,
    workers: int,
    per_engine: int,
    beside: float = 0.0,
    given: tuple[float | None, float | None] = (None, None),
) -> GpuShares:
    """Shares of so many GPUs where rewards have some of their own (`beside`), and where some are configured (`given`).

    Raises ConfigError where there are too few.
    """
    learner, rollout = given
    if learner is not None and rollout is not None:
        return GpuShares(learner, rollout)
    if learner is not None and 0 < learner < 1 < ranks:
        raise ConfigError(
            f"cluster.resources.learner.gpus is {learner:g}, and NCCL takes no two ranks on one GPU: take 1 (learner.ranks is "
            f"{ranks})"
        )
    known = ranks * (learner or 0.0) + workers * (rollout or 0.0)
    left = max(0, gpus - math.ceil(beside + known - 1e-6))
    if gpus and not left:
        wanted = f"the rewards alone want {beside:g} (rewards.resources.gpus, for each of rewards.workers)"
        if known:
            wanted = (
                f"rewards.resources and cluster.resources want {beside + known:g}, which leaves none for the other role"
            )
        raise ConfigError(
            f"the cluster has {gpus} GPUs, and {wanted}: lower these, or take a cluster with more GPUs (cluster.address)"
        )
    dealt = deal(
        left, ranks=ranks if learner is None else 0, workers=workers if rollout is None else 0, per_engine=per_engine
    )
    return GpuShares(dealt.learner if learner is None else learner, dealt.rollout if rollout is None else rollout)
