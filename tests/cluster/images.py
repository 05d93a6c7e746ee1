"""The images of the mini-cluster: the Dockerfile's, on a base that is made here as no registry of images may be at hand."""

import os
import re
import sys
import tempfile
from pathlib import Path

import yaml

from .podman import FAILURES, Podman, Unable, run

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/areal:cluster-test"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates,redis-server,libgomp1"
REDIS_USER = 999
"""Whom the compose file has Redis run as."""

BASE_TIMEOUT_S, BUILD_TIMEOUT_S = 300.0, 900.0


def bases() -> tuple[str, str]:
    """The images that the Dockerfile and Redis are based on, as the project's files name them."""
    base = re.search(r"^ARG BASE=(\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    redis = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["image"]
    assert base is not None
    return base[1], redis.partition(":-")[2].rstrip("}")


def make_bases(podman: Podman) -> bool:
    """Have Debian with Python and Redis stand in for both bases that are not here; whether any was made. Raises Unable."""
    wanted = [image for image in bases() if not podman.has(image)]
    if not wanted:
        return False
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "base.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        command += [f'--customize-hook=mkdir "$1/data" && chown {REDIS_USER}:{REDIS_USER} "$1/data"']
        command += ["--aptopt=Acquire::Languages none", SUITE, str(tar)]
        try:
            run(command, timeout_s=BASE_TIMEOUT_S, environment=os.environ)
        except FAILURES as error:
            raise Unable(f"no base image can be made: {error}") from error
        podman("import", "--quiet", str(tar), wanted[0], timeout_s=120.0)
    for other in wanted[1:]:
        podman("tag", wanted[0], other)
    return True


def build(podman: Podman) -> str:
    """The project's image, with what image policies need and no vLLM: its id, as another checkout may take the name."""
    arguments = {"EXTRAS": "cluster,images", "REQUIREMENTS": "requirements/torch-cpu.txt"}
    mounts: dict[str, str] = {}
    if certificates := os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT"):
        arguments |= {"SSL_CERT_FILE": certificates, "PIP_CERT": certificates}
        mounts[str(Path(certificates).parent)] = "ro"
    if wheels := _wheels():
        arguments |= {"FIND_LINKS": wheels, "TORCH_BACKEND": ""}
        mounts[wheels] = "ro"
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        if name in os.environ:
            arguments[name] = os.environ[name]
    if cache := _cache():
        arguments["UV_CACHE_DIR"] = cache
        mounts[cache] = "rw"
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    options += [f"--volume={path}:{path}:{how}" for path, how in mounts.items()]
    command = ["build", "--quiet", "--network=host", *options, f"--tag={IMAGE}", str(ROOT)]
    return podman(*command, timeout_s=BUILD_TIMEOUT_S).split()[-1]


def _wheels() -> str:
    """The folder that pip is told to look in, if the CPU build of torch lies there."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    return folder if folder and list(Path(folder).glob("torch-*+cpu*")) else ""


def _cache() -> str:
    """uv's cache on this machine, so that nothing is fetched again; empty where there is no uv."""
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        return ""
    folder = Path(run([str(uv), "cache", "dir"], timeout_s=30.0, environment=os.environ).strip())
    return str(folder) if folder.is_dir() else ""
