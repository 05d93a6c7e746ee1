"""The memory of nodes and of their GPUs, against roles that may come to lie there."""

from dataclasses import replace

import pytest

from areal.launch.cluster.nodes import SurveyedNode
from areal.launch.doctor.cluster import look_at_nodes
from areal.launch.models.size import ModelSize
from areal.launch.units import GIB

from .conftest import CLUSTER, HEAD, LARGE, OTHER, SMALL, TOLD, Configure, Found, having

LORA = "model.lora={rank: 8}"
ON_GPU = (LORA, "model.dtype=bfloat16")
BOX = having(replace(HEAD, gpu_mib=[81920] * 4, memory=900 * GIB, memory_free=800 * GIB), GPU=4.0)
SMALL_BOX = replace(BOX, host="10.0.0.2", id="n1", name="other", gpu_mib=[16384] * 4)
MIDDLE = ModelSize({"model.layers.0.self_attn.q_proj.weight": (10_000, 40_000)}, TOLD)
"""400 million parameters: a rank takes about 14.2 GiB, a worker 3.1 GiB."""


def of(node: SurveyedNode, gib: float, free: float | None = None) -> SurveyedNode:
    return replace(node, memory=int(gib * GIB), memory_free=int((gib if free is None else free) * GIB))


@pytest.mark.parametrize(
    ("nodes", "overrides", "level", "says"),
    [
        ([of(HEAD, 64), of(OTHER, 64)], (), "ok", "a rank wants about 14.2 GiB, a rollout worker 3.1 GiB"),
        ([of(HEAD, 8), of(OTHER, 8)], (), "problem", "find no places with memory for them"),
        ([of(HEAD, 8)], ("cluster.grows=true",), "warning", "find no places with memory for them"),
        ([of(HEAD, 16)], (), "problem", "and there: head (10.0.0.1) 16.0 GiB"),
        (
            [of(HEAD, 16), of(OTHER, 64)],
            (),
            "warning",
            "may bring 18.0 GiB of roles to head (10.0.0.1), which has 16.0",
        ),
        ([of(HEAD, 17), of(OTHER, 64)], ("cluster.affinity=apart",), "ok", "15.0 GiB of 17.0 GiB"),
        (
            [of(HEAD, 64), of(OTHER, 64, free=9)],
            (),
            "warning",
            "may come to other (10.0.0.2), of which 9.0 GiB are free",
        ),
        ([of(HEAD, 16), of(OTHER, 64)], ("cluster.resources.learner.custom={big: 1}",), "ok", "18.0 GiB of 64.0 GiB"),
        ([of(HEAD, 0), of(OTHER, 64)], (), "warning", "that of head (10.0.0.1) is not known"),
        ([of(HEAD, 0), of(OTHER, 8)], (), "warning", "may bring"),
        (
            [of(HEAD, 8)],
            ("rollout.workers=9",),
            "warning",
            "may bring",
        ),  # that there is no room for 9 is told elsewhere
    ],
)
def test_the_memory_of_nodes_is_enough_or_not(
    nodes: list[SurveyedNode], overrides: tuple[str, ...], level: str, says: str, found: Found
) -> None:
    *others, last = nodes
    told = found(*others, having(last, big=1.0), overrides=overrides, size=MIDDLE)["memory"]
    assert told.level == level and says in told.seen


@pytest.mark.parametrize(
    ("nodes", "overrides", "levels", "says"),
    [
        ([BOX], ON_GPU, ["ok", "ok"], "the learner needs about"),
        ([BOX], ("model.dtype=bfloat16",), ["ok", "problem"], "take more learner.ranks"),
        ([SMALL_BOX], ON_GPU, ["problem", "ok"], "raise rollout.engine.tensor_parallel_size"),
        (
            [BOX, SMALL_BOX],
            ("model.dtype=bfloat16", "learner.ranks=4", "cluster.resources.rollout.gpus=0"),
            ["ok", "warning"],
            "on other (10.0.0.2): the learner needs about",
        ),
        ([BOX, SMALL_BOX], ON_GPU, ["ok", "warning", "ok"], "on other (10.0.0.2): an engine needs"),
        (
            [having(BOX, big=4.0), SMALL_BOX],
            (*ON_GPU, "cluster.resources.learner.custom={big: 1}", "cluster.resources.rollout.custom={big: 1}"),
            ["ok", "ok"],
            "the learner needs",
        ),
        ([BOX], (*ON_GPU, "cluster.resources.learner.gpus=0"), ["ok"], "an engine needs"),
        (
            [BOX, replace(SMALL_BOX, gpu_mib=[], gpu_error="Driver/library version mismatch")],
            ON_GPU,
            ["warning", "ok", "ok"],
            "that of other (10.0.0.2) is not known: nvidia-smi is there, and tells Driver/library",
        ),
    ],
)
def test_the_memory_of_their_gpus_is_enough_or_not(
    nodes: list[SurveyedNode], overrides: tuple[str, ...], levels: list[str], says: str, configure: Configure
) -> None:
    told = [
        finding
        for finding in look_at_nodes(configure(*CLUSTER, *overrides), nodes, LARGE)
        if finding.check == "gpu memory"
    ]
    assert [finding.level for finding in told] == levels
    assert any(says in f"{finding.seen} {finding.remedy}" for finding in told)


def test_the_kv_cache_of_engines_on_cpus_is_looked_at_there_too(found: Found) -> None:
    long = ModelSize(SMALL.shapes, TOLD | {"num_hidden_layers": 20_000})
    assert found(HEAD, size=long)["kv cache"].level == "problem"
    assert found(HEAD)["kv cache"].level == "ok"
    assert "kv cache" not in found(BOX, size=long)


def test_where_the_gpus_cannot_be_dealt_nothing_is_said_of_memory(found: Found) -> None:
    told = found(having(BOX, GPU=1.0), overrides=("learner.ranks=2",))
    assert told["gpu shares"].level == "problem" and not {"memory", "gpu memory", "placement"} & told.keys()
