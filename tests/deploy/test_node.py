"""`areal-node`, with programs in place of Ray and areal that note how they were called."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fakes import calls, put
from .files import NODE

PLACES = ("cluster.resources.learner.custom.learner=1", "cluster.resources.rollout.custom.rollout=1")


@pytest.fixture
def head() -> Iterator[str]:
    """A port that listens as the Ray head would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    put(tmp_path, "ray", "areal", "rm")  # rm too, as a node clears away Ray's sessions
    return tmp_path


def node(here: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(here), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": path, "FAKES": str(here)}
    return subprocess.run(
        [NODE, *arguments], env=variables | environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_head_places_nothing_and_has_no_dashboard(here: Path) -> None:
    assert node(here, "head", AREAL_HEAD="ray-head:7000").returncode == 0
    (started,) = calls(here, "ray")
    assert started[:2] == ["start", "--head"]
    assert {"--port=7000", "--num-cpus=0", "--include-dashboard=false", "--block"} <= set(started)


def test_a_worker_joins_with_room_for_its_role(here: Path, head: str) -> None:
    assert node(here, "worker", "rollout", AREAL_HEAD=head, AREAL_NODE_CPUS="3").returncode == 0
    (started,) = calls(here, "ray")
    assert {f"--address={head}", "--num-cpus=3", '--resources={"rollout": 3}', "--block"} <= set(started)


def test_a_run_is_told_where_the_cluster_is(here: Path, head: str) -> None:
    ended = node(here, "drive", "run", "c.yaml", "seed=1", AREAL_HEAD=head, AREAL_REDIS_URL="rediss://there:1/0")
    assert ended.returncode == 0
    assert calls(here, "areal") == [
        ["run", "c.yaml", "seed=1", "cluster.address=auto", *PLACES, "broker.url=rediss://there:1/0"],
    ]
    (joined,) = calls(here, "ray")
    assert "--num-cpus=0" in joined


def test_what_a_run_says_itself_goes_before(here: Path, head: str) -> None:
    said = ["run", "c.yaml", "cluster.address=x:1", "broker.url=redis://y/0", "cluster.resources.learner.cpus=4"]
    assert node(here, "drive", *said, AREAL_HEAD=head).returncode == 0
    assert calls(here, "areal") == [said]


def test_other_commands_need_no_cluster(here: Path) -> None:
    assert node(here, "drive", "runs", AREAL_HEAD="127.0.0.1:1").returncode == 0
    assert calls(here, "areal") == [["runs"]]
    assert calls(here, "ray") == []


def test_a_head_that_is_not_there_is_named(here: Path) -> None:
    ended = node(here, "worker", "learner", AREAL_HEAD="127.0.0.1:1", AREAL_JOIN_TIMEOUT_S="0")
    assert ended.returncode == 1
    assert "no Ray head at 127.0.0.1:1 within 0 s" in ended.stderr
    assert calls(here, "ray") == []


def test_health_is_that_the_head_answers(here: Path, head: str) -> None:
    assert node(here, "healthy", AREAL_HEAD=head).returncode == 0
    assert node(here, "healthy", AREAL_HEAD="127.0.0.1:1").returncode != 0


@pytest.mark.parametrize("arguments", [[], ["queen"], ["worker"]])
def test_what_is_not_understood_is_said(here: Path, arguments: list[str]) -> None:
    ended = node(here, *arguments)
    assert ended.returncode == 2
    assert "areal-node" in ended.stderr
