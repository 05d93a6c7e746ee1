"""Starting Ray, or joining one."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from areal.broker.errors import ArealError
from areal.launch.cluster.joining import join
from areal.launch.cluster_config import ClusterConfig


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which something accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ray.init was called with."""
    options: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=options.update))  # type: ignore[arg-type]
    return options


def test_a_cluster_gets_what_is_shipped_and_is_told_nothing_of_resources(asked: dict[str, Any], listening: int) -> None:
    address = f"ray://127.0.0.1:{listening}"
    join(ClusterConfig(address=address), cpus=3, custom={"judge": 1}, runtime_env={"py_modules": ["/x"]})
    assert asked["address"] == address and asked["runtime_env"] == {"py_modules": ["/x"]}
    assert not asked.keys() & {"num_cpus", "resources", "_node_ip_address"}


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens_the_error_comes_at_once_with_a_remedy(asked: dict[str, Any], scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
    remedy = r"ray\[client\]" if scheme else "has to be a node of that cluster"
    with pytest.raises(ArealError, match=rf"cluster\.address is {address}\): .*refused(?s:.*){remedy}"):
        join(ClusterConfig(address=address), custom={})
    assert asked == {}


def test_no_ray_here_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=fail))  # type: ignore[arg-type]
    with pytest.raises(ArealError, match=r"is auto\): Could not find any running Ray instance\n.*ray start"):
        join(ClusterConfig(address="auto"), custom={})


SOCKETS = """
import psutil
from areal.launch.cluster_config import ClusterConfig
from areal.launch.cluster.joining import join
ray = join(ClusterConfig(), custom={})
place = ray.remote(lambda: ray.util.get_node_ip_address())
print(ray.get(place.remote()))
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    for connection in process.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(connection.laddr.ip)
"""


@pytest.mark.slow
def test_a_ray_that_is_started_here_listens_on_the_loopback_alone() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", SOCKETS]
    found = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    addresses = found.stdout.split()
    assert len(addresses) > 3 and set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1"}, found.stderr
