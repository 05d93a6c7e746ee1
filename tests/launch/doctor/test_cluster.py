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
    assert "2 nodes with 8 CPUs" in told["ray"].seen and "ways" not in told
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
        (replace(OTHER, sees=False), "shared directory", "warning", "weights travel through Redis"),
        (replace(OTHER, redis="BrokerUnavailable: no"), "redis from nodes", "problem", "1 of 2 nodes"),
        (replace(OTHER, skew_s=9.0), "clocks", "warning", "4.5 s off"),
    ],
)
def test_what_is_wrong_with_a_node_is_told(
    other: SurveyedNode, check: str, level: str, says: str, found: Found, configure: Configure
) -> None:
    told = found(HEAD, other)[check]
    assert told.level == level and says in told.seen and told.remedy


def test_weights_from_memory_want_no_directory(found: Found) -> None:
    blind = replace(OTHER, sees=False)
    told = found(HEAD, blind, overrides=("broker.weights=direct",))["shared directory"]
    assert told.level == "warning" and "weights travel directly from the learner's memory" in told.seen


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


@pytest.mark.parametrize(
    ("overrides", "level", "says"),
    [
        (TWO_RANKS, "problem", "other (10.0.0.2), where ranks may lie: all would end with an error"),
        ((*TWO_RANKS, "cluster.strategy=strict_pack"), "warning", "checkpoints and logs stay"),
        ((*TWO_RANKS, "cluster.resources.learner.custom={disk: 1}"), "warning", "where no rank may lie"),
        ((), "warning", "checkpoints and logs stay"),
        (("broker.weights=directory",), "problem", "not the same folder"),
    ],
)
def test_a_node_that_does_not_see_the_directory_is_none_for_several_ranks(
    overrides: tuple[str, ...], level: str, says: str, found: Found
) -> None:
    nodes = (having(HEAD, disk=2.0), replace(OTHER, sees=False), having(THIRD, disk=2.0))
    told = found(*nodes, overrides=overrides)["shared directory"]
    assert told.level == level and says in told.seen


def test_ranks_on_one_node_that_does_not_see_it_share_that_of_their_own(found: Found) -> None:
    blind = having(replace(OTHER, sees=False), disk=2.0)
    told = found(HEAD, blind, overrides=(*TWO_RANKS, "cluster.resources.learner.custom={disk: 1}"))
    assert told["shared directory"].level == "warning"


def test_where_nobody_answers_nothing_is_well(found: Found) -> None:
    told = found(replace(HEAD, **DEAF), replace(OTHER, **DEAF), overrides=TWO_RANKS)
    assert told["nodes"].level == "problem" and "none of 2 answered" in told["nodes"].seen
    assert set(told) == {"ray", "placement", "nodes"}
    assert "none of 0 answered" in found()["nodes"].seen


def test_of_those_that_answered_no_more_is_said(found: Found) -> None:
    told = found(HEAD, OTHER, replace(THIRD, **DEAF))
    for check in ("versions", "shared directory", "redis from nodes"):
        assert "all 2 nodes that answered" in told[check].seen, check


@pytest.mark.parametrize(
    ("cut_off", "level", "says"),
    [
        ({}, "ok", "the 2 nodes on which ranks may lie reach each other"),
        ({"n0": "timed out"}, "problem", "10.0.0.2 does not reach 10.0.0.1 (timed out)"),
        ({"n2": "timed out"}, "ok", "reach each other"),  # where no rank may lie
        (None, "warning", "other (10.0.0.2) did not say"),
    ],
)
def test_nodes_with_ranks_have_to_reach_each_other(
    cut_off: dict[str, str] | None, level: str, says: str, found: Found
) -> None:
    nodes = (HEAD, replace(OTHER, cut_off=cut_off), having(THIRD, CPU=0.0))
    told = found(*nodes, overrides=TWO_RANKS)
    assert told["ways"].level == level and says in told["ways"].seen
    assert "ways" not in found(*nodes, overrides=(*TWO_RANKS, "cluster.strategy=strict_pack"))


def test_many_closed_ways_are_told_in_short(found: Found) -> None:
    ids = {"n0": "timed out", "n1": "timed out", "n2": "timed out"}
    nodes = [
        replace(node, cut_off={other: why for other, why in ids.items() if other != node.id})
        for node in (HEAD, OTHER, THIRD)
    ]
    seen = found(*nodes, overrides=TWO_RANKS)["ways"].seen
    assert "and 3 ways more" in seen and seen.count("timed out") == 3


@pytest.mark.parametrize(("ranks", "meet"), [(1, False), (2, True)])
def test_nodes_are_asked_about_each_other_where_there_are_ranks(
    ranks: int, meet: bool, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def survey(*arguments: object, **options: object) -> list[SurveyedNode]:
        asked.append(options)
        return []

    monkeypatch.setattr(cluster, "survey", survey)
    list(look_at_cluster(configure(*CLUSTER, f"learner.ranks={ranks}"), "redis://10.0.0.1", None))
    assert asked == [{"meet": meet}]


def test_a_cluster_that_cannot_be_reached_is_a_problem(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> list[SurveyedNode]:
        raise ArealError("Ray at auto did not answer within 60 s")

    monkeypatch.setattr(cluster, "survey", fail)
    (told,) = carry_out([Check("ray", lambda: look_at_cluster(configure(*CLUSTER), "redis://10.0.0.1", None))])
    assert told.level == "problem" and "did not answer" in told.seen
