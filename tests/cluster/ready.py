"""From nothing to images of which containers can be started."""

from pathlib import Path

from .images import bases, build, make_bases
from .podman import Podman, install
from .stages import Stages


def make_ready(folder: Path, stages: Stages) -> tuple[Podman, str]:
    """Podman, and the image of the mini-cluster's nodes. Raises Unable where no container can be started."""
    with stages.stage("install podman"):
        install()
    podman = Podman(folder)
    with stages.stage("make the base image"):
        made = make_bases(podman)
        stages.note("make the base image", "" if made else "was there")
        podman.require_containers(bases()[0])
    with stages.stage("build the image"):
        image = build(podman)
    return podman, image
