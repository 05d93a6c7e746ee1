"""What a cluster can never hold is refused at once, with the key to change."""

from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.launch.cluster.beside import NOTHING, Beside

from ..fake_ray import Cluster, FakeRay

TWO = ("10.0.0.1", "10.0.0.2")
NEED = {"resources": {"rollout": {"cpus": 2, "custom": {"gen": 1}}}}


@pytest.mark.parametrize(
    ("ray", "configured", "beside", "says"),
    [
        (
            FakeRay(hosts=TWO),
            NEED,
            NOTHING,
            r"no node has 1 gen, which cluster\.resources\.rollout wants\. Wanted are 1 learner",
        ),
        (
            FakeRay(hosts=TWO, cpus=1, custom={"n1": {"gen": 1.0}}),
            NEED,
            NOTHING,
            r"no node has 2 CPU, which cluster\.resources\.rollout wants\. .* there 10\.0\.0\.1 has 1 CPU; 10\.0\.0\.2 has 1 CPU, 1 gen",
        ),
        (
            FakeRay(hosts=TWO, cpus=1, custom={"n0": {"gen": 1.0}, "n1": {"CPU": 2.0}}),
            NEED,
            NOTHING,
            r"no node has 2 CPU, 1 gen at once, which cluster\.resources\.rollout wants",
        ),
        (
            FakeRay(cpus=2),
            {},
            NOTHING,
            r"it wants 3 CPU for its roles, and the nodes have 2 together; lower learner\.ranks",
        ),
        (
            FakeRay(cpus=4),
            {},
            Beside(2, 0, {}),
            r"it wants 3 CPU for its roles and 2 for rewards \(rewards\.resources\), and the nodes have 4 together",
        ),
        (
            FakeRay(),
            {"affinity": "apart"},
            NOTHING,
            r"do not fit with cluster\.affinity apart, but with any they would",
        ),
        (
            FakeRay(hosts=TWO, cpus=2),
            {"strategy": "strict_spread", "resources": {"learner": {"cpus": 2}}},
            NOTHING,
            None,
        ),
        (
            FakeRay(hosts=TWO, cpus=3),
            {"affinity": "together", "resources": {"learner": {"cpus": 3}}},
            NOTHING,
            r"do not fit with cluster\.affinity together",
        ),
        (
            FakeRay(hosts=TWO, cpus=3),
            {"resources": {"rollout": {"cpus": 2}}},
            NOTHING,
            None,
        ),
        (
            FakeRay(hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3"), cpus=3),
            {"resources": {"rollout": {"cpus": 2}, "learner": {"cpus": 2}}},
            Beside(),
            None,
        ),
    ],
)
def test_what_never_fits_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, ray: FakeRay, configured: dict[str, Any], beside: Beside, says: str | None
) -> None:
    cluster = Cluster(monkeypatch, ranks=1, workers=2, ray=ray, beside=beside, **configured)
    if says is None:
        cluster.start()
        return
    with pytest.raises(ConfigError, match=says):
        cluster.start()
    assert ray.lives == {} and ray.groups == []


def test_ranks_that_cannot_lie_as_they_are_to_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"with cluster\.strategy strict_spread, but with pack they would"):
        Cluster(monkeypatch, ranks=3, ray=FakeRay(hosts=TWO), strategy="strict_spread").start()


def test_nodes_that_join_when_they_are_wanted_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(cpus=1)
    cluster = Cluster(monkeypatch, ranks=1, workers=2, ray=ray, affinity="apart", grows=True).start()
    assert cluster.placements() == {"learner": 1} and cluster.life("learner").labels == {}
