"""A real Ray of several nodes on this machine, on the loopback, with roles that are played by a script."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from areal.launch.cluster import actors
from areal.launch.cluster.actor import Cargo, RoleActor
from areal.launch.cluster.joining import RAY_ENVIRONMENT
from areal.launch.cluster.loopback import LOCAL_ONLY
from areal.launch.cluster.supervisor import Supervisor
from areal.launch.roles import RoleSpec

STORE = 80 * 2**20
NOTICED_SOON = {"health_check_period_ms": 1000, "health_check_timeout_ms": 4000, "health_check_failure_threshold": 3}
"""When the head takes a node for dead."""
ANSWER_S = 90.0

PLAY = """
import json, os, sys, time
spec = json.load(sys.stdin)
said = {"name": spec["name"], "node": os.environ["PLAYED_ON"], "stands_in": os.getcwd()}
said |= {"environment": {name: os.environ.get(name) for name in ("MALLOC_ARENA_MAX", "JUDGE_KEY", "AREAL_RUNTIME_ENV")}}
if functions := spec["config"].get("rewards", {}).get("functions"):
    from areal.rewards.loading import load_reward
    reward = load_reward(functions[0]["name"])
    said |= {"reward": reward("three words here"), "file": sys.modules[reward.__module__].__file__}
if spec["config"].get("rewards", {}).get("where") == "ray":
    import asyncio
    from areal.rewards.config import RewardsConfig
    from areal.rewards.pool import RewardPool
    async def score():
        pool = RewardPool(RewardsConfig.model_validate(spec["config"]["rewards"]))
        await pool.start()
        found = await pool.score("p", "a b", {})
        await pool.stop()
        return found.total
    said |= {"scored": asyncio.run(score())}
print("SAID", json.dumps(said), flush=True)
while not os.path.exists(spec["config"]["ends_with"]):
    time.sleep(0.1)
"""


class Player(RoleActor):
    """A role that says what it sees, and waits for a file; with `elsewhere`, on a machine with another disk."""

    def __init__(self, spec: RoleSpec, cargo: Cargo | None = None) -> None:
        import ray

        os.environ["PLAYED_ON"] = ray.get_runtime_context().get_node_id()
        super().__init__(replace(spec, directory=spec.config.get("elsewhere") or spec.directory), cargo)

    def _command(self) -> list[str]:
        return [sys.executable, "-c", PLAY]


class Nodes:
    """A head, whose client server listens at `client`, and nodes that are added and killed."""

    def __init__(self, **resources: float) -> None:
        from ray.cluster_utils import Cluster

        port = _free_port()
        self.client = f"ray://127.0.0.1:{port}"
        head = {"ray_client_server_port": port, "include_dashboard": False, "_system_config": NOTICED_SOON}
        self._cluster = Cluster(initialize_head=True, head_node_args=_node(resources) | head)
        self.address: str = self._cluster.address

    def add(self, **resources: float) -> Any:
        """A node, to be killed with `kill`."""
        return self._cluster.add_node(**_node(resources))

    def kill(self, node: Any) -> None:
        node.kill_raylet()

    def stop(self) -> None:
        self._cluster.shutdown()


def _node(resources: dict[str, float]) -> dict[str, Any]:
    return {"num_cpus": 2, "resources": resources, "object_store_memory": STORE, "node_ip_address": "127.0.0.1"}


def _free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@contextmanager
def loopback() -> Iterator[None]:
    """Ray on the loopback alone, also where it has been imported already; roles are players."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (RAY_ENVIRONMENT | LOCAL_ONLY).items():
            patch.setenv(name, value)
        patch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        patch.setattr(actors, "RoleActor", Player)
        yield


class Stage:
    """The roles of a run, looked after; what was told is in `told`."""

    def __init__(self, play: Supervisor, directory: Path) -> None:
        self.supervisor = play
        self._logs = directory / "logs"
        self.told: list[str] = []

    def until(self, come: Callable[[], Any]) -> Any:
        """Look after the roles until something is there, and return it."""
        deadline = time.monotonic() + ANSWER_S
        while not (found := come()):
            assert time.monotonic() < deadline, (self.told, [file.read_text() for file in self._logs.glob("*")])
            self.supervisor.tick()
            self.told += [text for _, text in self.supervisor.drain_events()]
            time.sleep(0.1)
        return found

    def said(self, name: str, times: int = 1) -> dict[str, Any]:
        """What a role said last, once it has said it so often."""

        def come() -> Any:
            log = self._logs / f"{name}.log"
            lines = [line for line in log.read_text().splitlines() if line.startswith("SAID ")] if log.exists() else []
            return json.loads(lines[-1].partition(" ")[2]) if len(lines) >= times else None

        found: dict[str, Any] = self.until(come)
        return found
