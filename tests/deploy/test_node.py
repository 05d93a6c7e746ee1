"""`areal-node`, with programs in place of Ray and areal that note how they were called."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


HIDDEN = """
if "--head" in sys.argv and sys.modules.get("grpc", 0) is None:
    with open(os.path.join(os.environ["FAKES"], "grpc.hidden"), "w"):
        pass
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    put(tmp_path, "areal", "rm")  # rm too, as a node clears away Ray's sessions
    put(tmp_path, "ray", then=HIDDEN)
    return tmp_path


class Agent(BaseHTTPRequestHandler):
    """Ray's, of a node that the head hears of or not."""

    def do_GET(self) -> None:
        answer: int = self.server.answer  # type: ignore[attr-defined]
        self.send_response(answer if self.path == "/api/local_raylet_healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[200, 503])
def agent(request: pytest.FixtureRequest) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        server.answer = request.param  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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


def test_the_head_serves_ray_client_if_told_to_and_not_else(here: Path) -> None:
    """Ray serves it without being asked wherever it can import grpc."""
    assert node(here, "head").returncode == 0
    assert (here / "grpc.hidden").exists()
    (here / "grpc.hidden").unlink()
    assert node(here, "head", AREAL_CLIENT_PORT="10001").returncode == 0
    without, with_it = calls(here, "ray")
    assert with_it == [*without, "--ray-client-server-port=10001"]
    assert not (here / "grpc.hidden").exists()


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


@pytest.mark.parametrize("flag", ["--detach", "--det"])
def test_a_run_in_the_background_of_a_container_that_ends_is_refused(here: Path, head: str, flag: str) -> None:
    ended = node(here, "drive", "run", "c.yaml", flag, AREAL_HEAD=head)
    assert ended.returncode == 2
    assert "docker compose run --detach areal run" in ended.stderr
    assert calls(here, "areal") == []


def test_a_doctor_looks_at_the_cluster_from_within(here: Path, head: str) -> None:
    assert node(here, "drive", "doctor", "--json", "c.yaml", AREAL_HEAD=head).returncode == 0
    told = ["cluster.address=auto", *PLACES, "broker.url=redis://redis:6379/0"]
    assert calls(here, "areal") == [["doctor", "--json", "c.yaml", *told]]
    (joined,) = calls(here, "ray")
    assert "--num-cpus=0" in joined


@pytest.mark.parametrize("command", [["runs"], ["doctor"], ["doctor", "--json"], ["check", "c.yaml"]])
def test_other_commands_need_no_cluster(here: Path, command: list[str]) -> None:
    assert node(here, "drive", *command, AREAL_HEAD="127.0.0.1:1").returncode == 0
    assert calls(here, "areal") == [command]
    assert calls(here, "ray") == []


def test_a_head_that_is_not_there_is_named(here: Path) -> None:
    ended = node(here, "worker", "learner", AREAL_HEAD="127.0.0.1:1", AREAL_JOIN_TIMEOUT_S="0")
    assert ended.returncode == 1
    assert "no Ray head at 127.0.0.1:1 within 0 s" in ended.stderr
    assert calls(here, "ray") == []


def test_the_head_is_well_while_it_answers(here: Path, head: str) -> None:
    assert node(here, "healthy", "head", AREAL_HEAD=head).returncode == 0
    assert node(here, "healthy", "head", AREAL_HEAD="127.0.0.1:1").returncode != 0


def test_a_worker_is_well_while_the_head_hears_of_it(here: Path, head: str, agent: ThreadingHTTPServer) -> None:
    """As its own agent says; that the head answers is no sign of it."""
    port, answer = agent.server_address[1], agent.answer  # type: ignore[attr-defined]
    well = node(here, "healthy", "worker", AREAL_HEAD=head, AREAL_AGENT_PORT=str(port)).returncode == 0
    assert well == (answer == 200)


def test_a_worker_that_has_not_joined_is_not_well(here: Path, head: str) -> None:
    assert node(here, "healthy", "worker", AREAL_HEAD=head, AREAL_AGENT_PORT="1").returncode != 0


@pytest.mark.parametrize("arguments", [[], ["queen"], ["worker"], ["healthy"], ["healthy", "queen"]])
def test_what_is_not_understood_is_said(here: Path, arguments: list[str]) -> None:
    ended = node(here, *arguments)
    assert ended.returncode == 2
    assert "areal-node" in ended.stderr
