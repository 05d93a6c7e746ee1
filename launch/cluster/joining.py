"""Starts Ray on this machine, or joins the cluster that the configuration names."""

import logging
import math
import os
import socket
from collections.abc import Mapping
from typing import Any

from ...broker.errors import ArealError
from ..cluster_config import ClusterConfig
from .fit import SLOT
from .loopback import keep_ray_on_loopback

OBJECT_STORE_BYTES = 80 * 2**20
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 would let anything else on the machine starve the roles
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working directory, whatever lies there
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # its handlers may end the processes that Ray's client server starts
}
SLOTS = 10_000

CLIENT = "ray://"
ANSWER_S = 5.0
"""How long a cluster may take to accept a connection: Ray by itself would try for minutes."""
REMEDIES = {
    "auto": "no Ray runs on this machine, or RAY_ADDRESS names another: start it with ray start, or set cluster.address to "
    "ray://HEAD:10001",
    CLIENT: "the Ray Client wants ray[client] installed here, the same Ray and Python as on the cluster, and its head to "
    "listen there (ray start --head --ray-client-server-port=10001); where the head says that starting a client server failed, "
    "start it with GRPC_ENABLE_FORK_SUPPORT=0 in its environment",
    "": "this machine has to be a node of that cluster (ray start --address=…); from elsewhere set cluster.address to "
    "ray://HEAD:10001",
}


def join(
    config: ClusterConfig,
    *,
    cpus: float = 0.0,
    custom: Mapping[str, float],
    runtime_env: Mapping[str, Any] | None = None,
) -> Any:
    """The module ray, connected; raises ArealError, which says what may help.

    cpus, custom: what has to be there besides slots for roles, where Ray is started here.
    runtime_env: what goes to the nodes of a cluster.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # read as Ray is imported
    if config.address is None:
        keep_ray_on_loopback()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if config.address is None:
        options |= {
            "num_cpus": max(math.ceil(cpus), os.cpu_count() or 1),
            "resources": {SLOT: SLOTS, **custom},
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "address": "local",  # not what RAY_ADDRESS may say
        }
    else:
        options |= {"address": config.address} | ({"runtime_env": dict(runtime_env)} if runtime_env else {})
    try:
        _reach(config.address)
        ray.init(**options)
    except Exception as error:
        said = f"Ray did not start (cluster.address is {config.address}): {error}"
        raise ArealError(said if config.address is None else f"{said}\n  {_remedy(config.address)}") from error
    return ray


def _reach(address: str | None) -> None:
    """Raises OSError if nothing listens there."""
    host, colon, port = (address or "").removeprefix(CLIENT).rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


def _remedy(address: str) -> str:
    return next(remedy for kind, remedy in REMEDIES.items() if address.startswith(kind))
