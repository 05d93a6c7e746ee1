"""What listens while a run is under way: Redis, Ray, the ranks of the learner, vLLM and the processes of rewards."""

import ipaddress

import psutil
import pytest

from .conftest import CONFIGS, Run, StartRun

pytestmark = pytest.mark.slow


def listening(run: Run) -> dict[str, str]:
    """Where the processes of a run listen, each address with the name of who does."""
    found = {}
    for process in run.alive():
        try:
            sockets = process.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        for socket in sockets:
            if socket.status == psutil.CONN_LISTEN:
                found[f"{socket.laddr.ip} {socket.laddr.port}"] = process.name()
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.split()[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def test_everything_listens_on_loopback_alone(start_run: StartRun) -> None:
    run = start_run(
        CONFIGS / "quickstart.yaml",
        "learner.ranks=2",
        "learner.steps=1000",
        "dataset.eval_size=0",
        "evaluation.every_steps=0",
        "rewards.where=ray",
        "rewards.resources.cpus=0.1",
    )
    run.await_step(2, 300)
    found = listening(run)
    assert {"redis-server", "gcs_server", "raylet"} <= set(found.values()), found
    assert [f"{name} on {address}" for address, name in found.items() if not is_loopback(address)] == []
    raylet = next(process for process in run.alive() if process.name() == "raylet")
    assert raylet.environ()["RAY_AUTH_MODE"] == "token"
    assert "weights travel through the run's directory: the run is on one machine" in run.text
    run.process.send_signal(psutil.signal.SIGINT)
    assert run.wait(120) == 130, run.text
    run.await_silence(20)
