"""Podman on this machine: installed where it is missing, and told what containers need to start here."""

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PACKAGES = (
    "podman",
    "crun",
    "netavark",
    "aardvark-dns",
    "iptables",
    "catatonit",
    "mmdebstrap",
    "iproute2",
    "util-linux",
)
COMMANDS = ("podman", "crun", "iptables", "mmdebstrap", "nsenter", "ip")
INSTALL_TIMEOUT_S = 300.0
UNIFIED = Path("/sys/fs/cgroup/unified")
MAX_FILES, MAX_PROCESSES = 20_000, 4096

SETTINGS = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
{containers}
[engine]
events_logger = "file"
{engine}
[network]
network_backend = "netavark"
"""

HYBRID_CONTAINERS = 'cgroups = "disabled"'
HYBRID_ENGINE = """\
cgroup_manager = "cgroupfs"
runtime = "crun"
[engine.runtimes]
crun = ["{wrapper}"]
"""

WRAPPER = f"""\
#!/bin/sh
# crun gives up where cgroups of both versions are mounted: it is shown those of the first alone, in a namespace of its own.
exec unshare -m --propagation slave sh -c 'umount {UNIFIED} 2>/dev/null; exec {{crun}} "$@"' crun "$@"
"""


class Unable(Exception):
    """No container can be started on this machine; the text says why."""


class CommandFailed(Exception):
    """A command ended on an error; `said` is what it wrote."""

    def __init__(self, command: list[str], code: int, said: str) -> None:
        super().__init__(f"exit code {code} of {' '.join(command)}: {said[-2000:]}")
        self.said = said


FAILURES = (CommandFailed, subprocess.SubprocessError, OSError)
"""What `run` raises."""


class Podman:
    """The command, with settings of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.environment = dict(os.environ) | {"CONTAINERS_CONF": str(_settings(folder))}

    def __call__(self, *arguments: str, timeout_s: float = 60.0, **environment: str) -> str:
        """What it prints. Raises CommandFailed."""
        return run(["podman", *arguments], timeout_s=timeout_s, environment=self.environment | environment)

    def has(self, image: str) -> bool:
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.environment, timeout=60, check=False).returncode == 0

    def require_containers(self, image: str) -> None:
        """Raises Unable unless a container of that image can be started."""
        try:
            said = self("run", "--rm", "--network", "none", "--entrypoint", "/bin/echo", image, "started")
        except FAILURES as error:
            raise Unable(f"podman cannot start a container here: {error}") from error
        if said.strip() != "started":
            raise Unable(f"a container of podman said {said!r} where 'started' was wanted")


def is_installed() -> bool:
    """Whether all is here that containers need on this machine."""
    return all(shutil.which(command) for command in COMMANDS)


def install() -> None:
    """Install podman and what else is needed by apt. Raises Unable."""
    if os.geteuid() != 0:
        raise Unable("only root can take a container's network down, and see its volumes")
    if is_installed():
        return
    if shutil.which("apt-get") is None:
        raise Unable(f"{', '.join(COMMANDS)} are not all installed, and there is no apt-get to do so")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"} | dict(os.environ)
    try:
        run(["apt-get", "update", "-qq"], timeout_s=INSTALL_TIMEOUT_S, environment=quiet)
        command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES]
        run(command, timeout_s=INSTALL_TIMEOUT_S, environment=quiet)
    except FAILURES as error:
        raise Unable(f"podman cannot be installed: {error}") from error


def run(command: list[str], *, timeout_s: float, environment: Mapping[str, str]) -> str:
    """What a command prints. Raises CommandFailed, or TimeoutExpired."""
    done = subprocess.run(
        command, env=environment, timeout=timeout_s, check=False, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stdout + done.stderr)
    return done.stdout


def _settings(folder: Path) -> Path:
    """A containers.conf for this machine."""
    hybrid = UNIFIED.is_mount()
    wrapper = folder / "crun"
    if hybrid:
        wrapper.write_text(WRAPPER.format(crun=shutil.which("crun")))
        wrapper.chmod(0o755)
    file = folder / "containers.conf"
    file.write_text(
        SETTINGS.format(
            files=_below(resource.RLIMIT_NOFILE, MAX_FILES),
            processes=_below(resource.RLIMIT_NPROC, MAX_PROCESSES),
            containers=HYBRID_CONTAINERS if hybrid else "",
            engine=HYBRID_ENGINE.format(wrapper=wrapper) if hybrid else "",
        )
    )
    return file


def _below(limit: int, most: int) -> int:
    """A limit that may be set here: podman's own is above what a machine may allow."""
    hard = resource.getrlimit(limit)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)
