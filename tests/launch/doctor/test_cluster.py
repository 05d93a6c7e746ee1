from dataclasses import replace

import pytest

from areal.broker.errors import ArealError
from areal.launch.cluster.nodes import SurveyedNode
from areal.launch.doctor import cluster
from areal.launch.doctor.cluster import MUST_AGREE, look_at_cluster
from areal.launch.doctor.finding import Check, carry_out

from .conftest import CLUSTER, HEAD, OTHER, THIRD, VERSIONS, Configure, Found, having

DEAF = {"error": "it did not answer within 20 s"}
TWO_RANKS = ("learner.ranks=2",)


def test_a_cluster_as_it_should_be(found: Found) -> None:
    told = found(HEAD, OTHER)
    assert {finding.level for finding in told.values()} == {"ok"}, told
    assert "2 nodes with 8 CPUs" in told["ray"].seen
    assert {"placement", "memory", "kv cache", "shared directory"} <= told.keys()


@pytest.mark.parametrize(
    ("other", "check", "level", "says"),
    [
        (having(OTHER, CPU=-3.0), "placement", "problem", "it wants 2 CPU for its roles, and the nodes have 1"),
        (replace(OTHER, error="it did not answer within 20 s"), "nodes", "problem", "10.0.0.2"),
        (replace(OTHER, packages={}), "versions", "problem", "other (10.0.0.2) lacks areal-rl, torch, ray"),
        (replace(OTHER, packages=VERSIONS | {"torch": "1.0"}), "versions", "warning", "torch 1.0 (here"),
        (replace(OTHER, packages={k: VERSIONS[k] for k in MUST_AGREE}), "versions", "warning", "has no vLLM"),
        (replace(OTHER, python="3.12.1"), "versions", "warning", "3.11.7 on 1, 3.12.1 on 1"),
        (replace(OTHER, sees=False), "shared directory", "warning", "weights go through Redis"),
        (replace(OTHER, redis="BrokerUnavailable: no"), "redis from nodes", "problem", "1 of 2 nodes"),
        (replace(OTHER, skew_s=9.0), "clocks", "warning", "4.5 s off"),
    ],
)
def test_what_is_wrong_with_a_node_is_told(
    other: SurveyedNode, check: str, level: str, says: str, found: Found, configure: Configure
) -> None:
    told = found(HEAD, other)[check]
    assert told.level == level and says in told.seen and told.remedy


def test_gpus_of_all_nodes_count(found: Found) -> None:
    two = ("rollout.engine.tensor_parallel_size=2",)
    assert found(HEAD, overrides=two)["gpu shares"].level == "problem"
    told = found(having(HEAD, GPU=1), having(OTHER, GPU=2), overrides=two)
    assert told["gpu shares"].level == told["placement"].level == "ok"


@pytest.mark.parametrize(
    ("nodes", "overrides", "says"),
    [
        (
            [having(node, CPU=1.0) for node in (HEAD, OTHER, THIRD)],
            ("cluster.resources.learner.cpus=2",),
            "no node has 2 CPU, which cluster.resources.learner wants",
        ),
        ([HEAD, OTHER], ("cluster.resources.rollout.custom={fast: 1}",), "no node has 1 fast"),
        ([HEAD], ("cluster.affinity=apart",), "with cluster.affinity apart, but with any they would"),
        ([HEAD, OTHER], ("learner.ranks=3", "cluster.strategy=strict_spread"), "but with pack they would"),
        (
            [having(node, GPU=2.0) for node in (HEAD, OTHER, THIRD)],
            ("rollout.engine.tensor_parallel_size=4",),
            "no node has 4 GPU, which cluster.resources.rollout wants",
        ),
        (
            [having(HEAD, judge=1.0)],
            ("rewards.where=ray", "rewards.workers=2", "rewards.resources.custom={judge: 1}"),
            "0 judge for its roles and 2 for rewards",
        ),
    ],
)
def test_what_a_run_is_refused_for_is_a_problem_and_on_a_cluster_that_grows_a_warning(
    nodes: list[SurveyedNode], overrides: tuple[str, ...], says: str, found: Found
) -> None:
    told = found(*nodes, overrides=overrides)
    assert told["placement"].level == "problem" and says in told["placement"].seen
    grown = found(*nodes, overrides=(*overrides, "cluster.grows=true"))
    assert grown["placement"].level == "warning" and says in grown["placement"].seen
    assert not any(finding.level == "problem" for finding in grown.values())


def test_gpus_that_are_to_join_are_a_warning(found: Found) -> None:
    given = ("cluster.resources.learner.gpus=1", "cluster.resources.rollout.gpus=1")
    assert found(HEAD, overrides=given)["placement"].level == "problem"
    grown = found(HEAD, overrides=(*given, "cluster.grows=true"))
    assert not any(finding.level == "problem" for finding in grown.values())


def test_ranks_on_loopback_and_elsewhere_would_not_meet(found: Found) -> None:
    nodes = (replace(HEAD, host="127.0.0.1"), OTHER)
    told = found(*nodes, overrides=(*TWO_RANKS, "cluster.grows=true"))["ranks"]
    assert told.level == "problem" and "would not meet" in told.seen
    assert "ranks" not in found(*nodes)


def test_weights_that_are_to_be_in_a_directory_must_be_seen_by_all(found: Found) -> None:
    told = found(HEAD, replace(OTHER, sees=False), overrides=("broker.weights=directory",))
    assert told["shared directory"].level == "problem"


def test_where_nobody_answers_nothing_is_well(found: Found) -> None:
    told = found(replace(HEAD, **DEAF), replace(OTHER, **DEAF), overrides=TWO_RANKS)
    assert told["nodes"].level == "problem" and "none of 2 answered" in told["nodes"].seen
    assert set(told) == {"ray", "placement", "nodes"}
    assert "none of 0 answered" in found()["nodes"].seen


def test_of_those_that_answered_no_more_is_said(found: Found) -> None:
    told = found(HEAD, OTHER, replace(THIRD, **DEAF))
    for check in ("versions", "shared directory", "redis from nodes"):
        assert "all 2 nodes that answered" in told[check].seen, check


def test_a_cluster_that_cannot_be_reached_is_a_problem(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> list[SurveyedNode]:
        raise ArealError("Ray at auto did not answer within 60 s")

    monkeypatch.setattr(cluster, "survey", fail)
    (told,) = carry_out([Check("ray", lambda: look_at_cluster(configure(*CLUSTER), "redis://10.0.0.1", None))])
    assert told.level == "problem" and "did not answer" in told.seen
