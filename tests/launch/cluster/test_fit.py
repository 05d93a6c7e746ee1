"""What fits on which nodes."""

from dataclasses import replace

import pytest

from areal.launch.cluster.fit import Capacity, Need, Wanted, learner_nodes, room, told_resources

CPU, GPU = Need({"CPU": 1}), Need({"CPU": 1, "GPU": 1})


def nodes(*totals: dict[str, float]) -> list[Capacity]:
    return [Capacity(f"n{index}", f"10.0.0.{index}", total) for index, total in enumerate(totals)]


def wanted(ranks: int, workers: int, affinity: str = "any", strategy: str = "pack") -> Wanted:
    return Wanted(ranks, GPU, workers, GPU, affinity, strategy)


BOX = {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("there", "want", "ranks_on"),
    [
        ([BOX], wanted(4, 4), {"n0"}),
        ([BOX], wanted(4, 5), None),
        ([BOX, BOX], wanted(4, 12), {"n0"}),
        ([BOX, BOX], wanted(8, 8, "apart"), {"n0"}),
        ([BOX, BOX], wanted(4, 12, "apart"), None),
        ([BOX, BOX], wanted(9, 7, "together"), {"n0", "n1"}),
        ([BOX], wanted(1, 1, "apart"), None),
        ([BOX, BOX], wanted(9, 1, strategy="strict_pack"), None),
        ([BOX, BOX], wanted(8, 8, strategy="strict_pack"), {"n0"}),
        ([BOX, BOX], wanted(2, 14, strategy="strict_spread"), {"n0", "n1"}),
        ([BOX, BOX], wanted(3, 1, strategy="strict_spread"), None),
        ([{"CPU": 2, "GPU": 2}, BOX], wanted(2, 8, "apart"), {"n0"}),
        ([{"CPU": 1, "GPU": 2}, BOX], wanted(2, 8, "apart"), None),
        ([], wanted(1, 1), None),
    ],
)
def test_the_learner_has_few_nodes_and_leaves_room(
    there: list[dict[str, float]], want: Wanted, ranks_on: set[str] | None
) -> None:
    assert learner_nodes(nodes(*there), want) == ranks_on


def test_no_rank_is_put_on_a_node_that_is_taken() -> None:
    there, want = nodes(BOX, BOX), wanted(1, 1, "apart")
    assert learner_nodes(there, want, taken={"n0"}) == {"n1"}
    assert learner_nodes(there, want, taken={"n0", "n1"}) is None


def test_many_kinds_of_nodes_are_used_as_well_as_can_be() -> None:
    """Greedily, the ranks would take the nodes that have what workers need."""
    worker = Need({"CPU": 1, "fast": 1})
    there = nodes({"CPU": 1, "fast": 1}, {"CPU": 1}, {"CPU": 1, "fast": 1}, {"CPU": 1})
    want = Wanted(2, CPU, 2, worker)
    assert learner_nodes(there, want) == {"n1", "n3"}
    assert learner_nodes(there, replace(want, workers=3)) is None


@pytest.mark.parametrize(
    ("gpus", "each", "count"),
    [(1, 1 / 3, 3), (2, 0.6, 2), (2, 0.5, 4), (0.5, 0.5, 1), (8, 2, 4), (3, 2, 1), (0, 0.5, 0)],
)
def test_a_share_of_a_gpu_reaches_over_no_two(gpus: float, each: float, count: int) -> None:
    assert room({"CPU": 64, "GPU": gpus}, Need({"CPU": 1, "GPU": each})) == count


def test_what_ray_adds_for_itself_is_not_told() -> None:
    has = {
        "CPU": 4.0,
        "judge": 1.5,
        "memory": 7e9,
        "object_store_memory": 3e9,
        "node:10.0.0.1": 1.0,
        "CPU_group_0_a1": 1.0,
    }
    assert told_resources(has) == "4 CPU, 1.5 judge" and told_resources({}) == "nothing"
