"""How many roles a node may come to have."""

import pytest

from areal.launch.cluster.demand import loads, needs_of, wanted_of
from areal.launch.cluster.fit import Capacity, Need, Wanted
from areal.launch.cluster.gpus import GpuShares
from areal.launch.cluster_config import ClusterConfig

RANK, WORKER = Need({"CPU": 2}), Need({"CPU": 1, "fast": 1})
BOX = {"CPU": 6.0, "fast": 3.0}


@pytest.mark.parametrize(
    ("has", "affinity", "strategy", "expected"),
    [
        (BOX, "any", "pack", [(0, 3), (1, 3), (2, 2)]),
        (BOX, "apart", "pack", [(0, 3), (1, 0), (2, 0)]),
        (BOX, "together", "spread", [(0, 0), (1, 3), (2, 2)]),
        (BOX, "any", "strict_pack", [(0, 3), (2, 2)]),
        (BOX, "any", "strict_spread", [(0, 3), (1, 3)]),
        ({"CPU": 3.0}, "any", "pack", [(0, 0), (1, 0)]),
        ({"CPU": 3.0}, "any", "strict_pack", [(0, 0)]),
        ({"CPU": 1.0, "fast": 9.0}, "any", "pack", [(0, 1)]),
    ],
)
def test_a_node_may_have_so_many_ranks_and_workers_beside_them(
    has: dict[str, float], affinity: str, strategy: str, expected: list[tuple[int, int]]
) -> None:
    wanted = Wanted(2, RANK, 4, WORKER, affinity, strategy)
    assert list(loads(Capacity("n0", "10.0.0.1", has), wanted)) == expected


def test_what_is_configured_and_what_is_dealt_is_wanted() -> None:
    given = {"learner": {"cpus": 2, "gpus": 0}, "rollout": {"custom": {"fast": 2}}}
    config = ClusterConfig.model_validate({"address": "auto", "affinity": "apart", "resources": given})
    wanted = wanted_of(config, needs_of(config, GpuShares(1, 4)), ranks=2, workers=3)
    assert wanted == Wanted(2, Need({"CPU": 2}), 3, Need({"CPU": 1, "fast": 2, "GPU": 4}), "apart", "pack")
