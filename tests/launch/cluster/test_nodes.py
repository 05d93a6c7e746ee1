import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from areal.broker.client import Client
from areal.broker.errors import ArealError
from areal.launch.cluster import nvidia
from areal.launch.cluster.fit import Capacity
from areal.launch.cluster.loopback import LOCAL_ONLY
from areal.launch.cluster.nodes import PACKAGES, SurveyedNode, _marker, look, survey

RAY = """
import sys, ray
options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20, "log_to_driver": False}
ray.init(address="local", **options)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def test_a_node_tells_what_it_sees(redis_url: str, client: Client, tmp_path: Path) -> None:
    with _marker(tmp_path / "runs" / "mine") as marker:
        told = look(str(marker), redis_url, PACKAGES)
    assert told["sees"] and told["redis"] == "" and abs(told["skew_s"]) < 1
    assert {"areal-rl", "torch", "ray"} <= told["packages"].keys() <= set(PACKAGES)
    assert told["memory"] >= told["memory_free"] > 0 and told["gpu_mib"] == [] and told["gpu_error"] == ""
    assert not (tmp_path / "runs").exists()


def test_a_node_tells_of_gpus_that_ray_hides_from_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia.shutil, "which", lambda name: "/bin/echo")
    monkeypatch.setattr(nvidia, "QUERY", ["NVIDIA A, 24576, 3, 570.1"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look(str(tmp_path / "marker"), None, ())["gpu_mib"] == [24576]
    monkeypatch.setattr(nvidia, "QUERY", ["Driver/library version mismatch"])
    told = look(str(tmp_path / "marker"), None, ())
    assert (told["gpu_mib"], told["gpu_error"]) == ([], "Driver/library version mismatch")


def test_a_node_without_this_areal_answers_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "areal.launch.cluster.cgroups", None)
    told = look(str(tmp_path / "marker"), None, ())
    node = SurveyedNode("10.0.0.1", **told)
    assert (node.memory, list(node.gpu_mib), node.called) == (0, [], f"{told['name']} (10.0.0.1)")


def test_a_node_that_sees_another_folder_or_no_redis_says_so(tmp_path: Path) -> None:
    other = tmp_path / ".areal-0" / "marker"
    other.parent.mkdir()
    other.write_text("of another run")
    told = look(str(other), "redis://127.0.0.1:1/0", ("no-such-package",), redis_s=0.2)
    assert not told["sees"] and "BrokerUnavailable" in told["redis"] and told["packages"] == {}
    assert not look(str(tmp_path / "nowhere" / "marker"), None, ())["sees"]


def test_the_marker_leaves_what_was_there(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with _marker(runs / "mine") as marker:
        assert marker.read_text() == marker.parent.name and marker.parent.parent == runs
    assert list(runs.iterdir()) == []
    (runs / "mine").mkdir()
    with _marker(runs / "mine") as marker:
        assert marker.parent.parent == runs / "mine"
    assert list(runs.iterdir()) == [runs / "mine"] and not any((runs / "mine").iterdir())


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_an_error_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(ArealError, match=r"^Ray at 127\.0\.0\.1:1 (did not answer within 5 s|cannot be used)"):
        survey("127.0.0.1:1", tmp_path / "runs" / "mine", None, timeout_s=5.0)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a Ray in a process of its own, on loopback, which asks for a token; who joins it has the same environment."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    for name, value in (LOCAL_ONLY | token).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", RAY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("", timeout=30)


@pytest.mark.slow
def test_nodes_of_a_real_cluster_answer_who_has_its_token(
    ray_address: str, redis_url: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = survey(ray_address, tmp_path / "runs" / "mine", redis_url, meet=True)
    assert (node.host, node.resources["CPU"], node.error, node.redis) == ("127.0.0.1", 2.0, "", "")
    assert node.place == Capacity(node.id, "127.0.0.1", node.resources) and node.memory >= node.memory_free > 0
    assert node.sees and abs(node.skew_s) < 1 and node.name == os.uname().nodename
    assert "areal-rl" in node.packages
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ArealError, match="RAY_AUTH_TOKEN are set here as there"):
        survey(ray_address, tmp_path / "runs" / "mine", redis_url, timeout_s=8.0)
