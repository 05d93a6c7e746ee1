import pytest

from areal.broker.errors import ConfigError
from areal.launch.cluster.gpus import GpuShares, deal, shares


@pytest.mark.parametrize(
    ("gpus", "ranks", "workers", "per_engine", "learner", "rollout"),
    [
        (0, 2, 3, 1, 0, 0),
        (8, 4, 4, 1, 1, 1),
        (8, 2, 3, 2, 1, 2),
        (8, 7, 1, 1, 1, 1),
        (8, 7, 2, 1, 1, 0.5),
        (8, 6, 3, 1, 1, 0.5),  # two on one GPU, one on the other
        (2, 1, 2, 1, 1, 0.5),
        (1, 1, 1, 1, 0.5, 0.5),
        (1, 1, 3, 1, 0.25, 0.25),
    ],
)
def test_ranks_have_gpus_of_their_own_and_workers_share_the_rest(
    gpus: int, ranks: int, workers: int, per_engine: int, learner: float, rollout: float
) -> None:
    assert deal(gpus, ranks=ranks, workers=workers, per_engine=per_engine) == GpuShares(learner, rollout)


@pytest.mark.parametrize(
    ("gpus", "ranks", "workers", "per_engine", "wanted"),
    [
        (8, 8, 1, 1, 9),
        (1, 2, 1, 1, 3),
        (8, 8, 3, 1, 9),
        (8, 7, 1, 2, 9),
        (2, 1, 1, 2, 3),
        (1, 1, 1, 2, 3),
    ],
)
def test_too_few_gpus_are_told_with_what_is_wanted(
    gpus: int, ranks: int, workers: int, per_engine: int, wanted: int
) -> None:
    says = (
        rf"the cluster has {gpus} GPUs, and this run wants {wanted} or more: .*learner\.ranks is {ranks}\), "
        rf"and {wanted - ranks} for rollout \(rollout\.workers is {workers}, rollout\.engine\.tensor_parallel_size "
        rf"{per_engine}.*cluster\.address"
    )
    with pytest.raises(ConfigError, match=says):
        deal(gpus, ranks=ranks, workers=workers, per_engine=per_engine)


@pytest.mark.parametrize(
    ("gpus", "beside", "given", "learner", "rollout"),
    [
        (8, 0, (None, None), 1, 1),
        (8, 0, (2.0, None), 2, 1),
        (4, 0, (1.0, None), 1, 0.5),
        (4, 1, (None, None), 1, 1 / 3),
        (4, 0, (None, 0.25), 1, 0.25),
        (0, 0, (1.0, 0.5), 1, 0.5),
        (0, 0, (1.0, None), 1, 0),
    ],
)
def test_what_is_configured_is_not_dealt(
    gpus: int, beside: float, given: tuple[float | None, float | None], learner: float, rollout: float
) -> None:
    found = shares(gpus, ranks=2, workers=3, per_engine=1, beside=beside, given=given)
    assert found == GpuShares(learner, pytest.approx(rollout))


def test_what_is_configured_leaves_some_for_the_other_role() -> None:
    with pytest.raises(
        ConfigError, match=r"rewards\.resources and cluster\.resources want 4, which leaves none for the other"
    ):
        shares(4, ranks=2, workers=3, per_engine=1, given=(2.0, None))
    with pytest.raises(ConfigError, match=r"cluster\.resources\.learner\.gpus is 0\.5, and NCCL takes no two ranks"):
        shares(4, ranks=2, workers=3, per_engine=1, given=(0.5, None))
