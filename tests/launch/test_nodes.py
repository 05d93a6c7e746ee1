import os
from pathlib import Path

import pytest

from areal.broker.address import redacted
from areal.broker.client import Client
from areal.broker.errors import ArealError
from areal.launch.nodes import PACKAGES, _marker, look, survey


def test_a_node_tells_what_it_sees(redis_url: str, client: Client, tmp_path: Path) -> None:
    with _marker(tmp_path / "runs" / "mine") as marker:
        told = look(str(marker), redis_url, PACKAGES)
    assert told["sees"] and told["redis"] == "" and abs(told["skew_s"]) < 1
    assert {"areal-rl", "torch", "ray"} <= told["packages"].keys() <= set(PACKAGES)
    assert not (tmp_path / "runs").exists()


def test_a_node_that_sees_another_folder_or_no_redis_says_so(tmp_path: Path) -> None:
    other = tmp_path / ".areal-0" / "marker"
    other.parent.mkdir()
    other.write_text("of another run")
    told = look(str(other), "redis://127.0.0.1:1/0", ("no-such-package",))
    assert not told["sees"] and "BrokerUnavailable" in told["redis"] and told["packages"] == {}
    assert not look(str(tmp_path / "nowhere" / "marker"), None, ())["sees"]


def test_the_marker_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with _marker(tmp_path / "runs" / "mine") as marker:
        assert marker.read_text() == marker.parent.name
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_an_error_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(ArealError, match=r"^Ray at 127\.0\.0\.1:1 (did not answer within 5 s|cannot be used)"):
        survey("127.0.0.1:1", tmp_path / "runs" / "mine", None, timeout_s=5.0)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_nodes_of_a_real_cluster_answer(
    redis_url: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    try:
        (node,) = survey(ray.get_runtime_context().gcs_address, tmp_path / "runs" / "mine", redis_url)
        (blind,) = survey(
            ray.get_runtime_context().gcs_address, tmp_path / "runs" / "mine", f"redis://{redacted(redis_url)}/0"
        )
    finally:
        ray.shutdown()
    assert (node.host, node.cpus, node.error, node.redis) == ("127.0.0.1", 2.0, "", "")
    assert node.sees and abs(node.skew_s) < 1 and node.name == os.uname().nodename
    assert "areal-rl" in node.packages
    assert "it does not accept the user name or the password" in blind.redis
