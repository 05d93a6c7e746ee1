"""The cluster of docker-compose.yml, brought up by podman, and what can be done to it."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .images import ROOT
from .podman import FAILURES, CommandFailed, Podman, run
from .stages import await_

PODMAN_COMPOSE = "podman-compose==1.6.0"
SERVICES = ("redis", "ray-head", "learner", "rollout-0", "rollout-1")
NODES = ("learner", "rollout-0", "rollout-1")
UP_TIMEOUT_S, DOWN_TIMEOUT_S, JOIN_TIMEOUT_S, EXEC_TIMEOUT_S = 120.0, 90.0, 240.0, 60.0


class MiniCluster:
    """One project of compose, under a name and on a network of its own."""

    def __init__(self, podman: Podman, image: str, folder: Path) -> None:
        """image: of the nodes; folder: for what drivers print."""
        self._podman = podman
        self._image = image
        self._folder = folder
        self.project = f"areal-{secrets.token_hex(3)}"
        self.password, self.token = secrets.token_hex(24), secrets.token_hex(24)
        self._environment = podman.environment | {
            "AREAL_IMAGE": image,
            "AREAL_REDIS_PASSWORD": self.password,
            "RAY_AUTH_TOKEN": self.token,
            "AREAL_NETWORK": f"172.30.{secrets.randbelow(256)}",
            "AREAL_SHM": "256m",
        }

    @contextmanager
    def up(self) -> Iterator[None]:
        """All services but `areal`, until the end, of which nothing is left."""
        try:
            self._compose("up", "--detach", "--no-build", timeout_s=UP_TIMEOUT_S)
            yield
        finally:
            self._down()

    def await_nodes(self) -> None:
        """Until every node has joined the Ray cluster."""
        for node in NODES:
            await_(f"{node} joins the Ray cluster", partial(self.has_joined, node), timeout_s=JOIN_TIMEOUT_S)
        for service, what in ({"ray-head": "head"} | dict.fromkeys(NODES, "worker")).items():
            await_(f"{service} is healthy", partial(self.is_healthy, service, what), timeout_s=JOIN_TIMEOUT_S)

    def has_joined(self, node: str) -> bool:
        """Whether the container's newest life has said that its Ray runs."""
        return "Ray runtime started" in self._logs(node).rpartition("Local node IP")[2]

    def is_healthy(self, service: str, what: str) -> bool:
        """What compose would have found out: podman asks no container by itself."""
        try:
            self.exec(service, "areal-node", "healthy", what)
        except CommandFailed:
            return False
        return True

    def listens(self, service: str) -> set[int]:
        """The TCP ports of a container that others reach."""
        pid = str(self.inspect(self.container(service))["State"]["Pid"])
        command = ["nsenter", "--target", pid, "--net", "ss", "-Hltn"]
        said = run(command, timeout_s=30.0, environment=os.environ)
        places = [line.split()[3].rpartition(":") for line in said.splitlines()]
        return {int(port) for address, _, port in places if "127.0.0.1" not in address}

    def exec(self, service: str, *command: str, timeout_s: float = EXEC_TIMEOUT_S) -> str:
        """What a command in a container prints."""
        return self._podman("exec", self.container(service), *command, timeout_s=timeout_s)

    def once(self, file: str, service: str, *command: str) -> str:
        """What a command prints in a container of its own, confined as the file, too, says of the service."""
        ours, theirs = (yaml.safe_load((ROOT / each).read_text()) for each in ("docker-compose.yml", file))
        security = ours["x-node"]["security_opt"] + theirs["services"][service]["security_opt"]
        options = [f"--security-opt={option.replace('seccomp=', f'seccomp={ROOT}/')}" for option in security]
        options += [f"--cap-drop={each}" for each in ours["x-node"]["cap_drop"]]
        entry, *arguments = command
        return self._podman("run", "--rm", "--network=none", *options, f"--entrypoint={entry}", self._image, *arguments)

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of a container."""
        found: dict[str, Any] = json.loads(self._podman("inspect", name))[0]
        return found

    def inspect_all(self) -> list[dict[str, Any]]:
        """What podman knows of the container of each service."""
        return [self.inspect(self.container(service)) for service in SERVICES]

    def is_up(self, service: str) -> bool:
        return bool(self.inspect(self.container(service))["State"]["Running"])

    def kill(self, service: str) -> None:
        """End all processes of a container at once, as a crash would."""
        os.kill(int(self.inspect(self.container(service))["State"]["Pid"]), signal.SIGKILL)

    def link(self, service: str, to: str) -> None:
        """Take a node's network `down`, or `up` again under the same address."""
        pid = str(self.inspect(self.container(service))["State"]["Pid"])
        command = ["nsenter", "--target", pid, "--net", "ip", "link", "set", "eth0", to]
        run(command, timeout_s=30.0, environment=os.environ)

    def file(self, path: str) -> Path:
        """A file of the volume of runs, as this machine sees it."""
        mountpoint = self._podman("volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.project}_runs").strip()
        return Path(mountpoint) / path

    def drive(self, *arguments: str) -> "Driver":
        """`docker compose run areal ARGUMENTS`, in the background."""
        name = f"{self.project}-driver-{secrets.token_hex(2)}"
        command = [
            *_compose_command(self.project),
            "--profile",
            "run",
            "run",
            "--rm",
            "--no-deps",
            "-T",
            "--name",
            name,
        ]
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "areal", *arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return Driver(process, log, name, self._podman)

    def report(self) -> str:
        """The last that each part has said."""
        parts = {name: self._logs(name) for name in SERVICES}
        with contextlib.suppress(*FAILURES):
            parts |= {str(log): log.read_text(errors="replace") for log in self.file(".").glob("*/logs/*.log")}
        parts |= {str(log): log.read_text(errors="replace") for log in self._folder.glob("*.log")}
        return "\n".join(f"—— {name}\n" + "\n".join(text.splitlines()[-25:]) for name, text in parts.items())

    def _logs(self, service: str) -> str:
        done = subprocess.run(
            ["podman", "logs", self.container(service)],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
        return done.stdout

    def _compose(self, *arguments: str, timeout_s: float) -> None:
        run([*_compose_command(self.project), *arguments], timeout_s=timeout_s, environment=self._environment)

    def _down(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        with contextlib.suppress(*FAILURES):  # drivers, of which compose knows nothing
            drivers = self._podman("ps", "--all", "--quiet", "--filter", f"name={self.project}-driver").split()
            self._podman("rm", "--force", "--time", "2", *drivers, timeout_s=DOWN_TIMEOUT_S)
        self._compose("down", "--volumes", "--timeout", "2", timeout_s=DOWN_TIMEOUT_S)


class Driver:
    """A container that runs `areal`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, name: str, podman: Podman) -> None:
        self._process = process
        self._log = log
        self._name = name
        self._podman = podman

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def require_alive(self) -> None:
        """Raises AssertionError with what it said last if it has ended."""
        code = self._process.poll()
        assert code is None, f"areal ended early with exit code {code}:\n{self.said[-2000:]}"

    def drain(self) -> None:
        """Ask it to save and end, as `docker stop` does."""
        self._podman("kill", "--signal", "TERM", self._name)

    def ended(self, timeout_s: float) -> int:
        """Its exit code, once it has one."""
        return self._process.wait(timeout_s)


def _compose_command(project: str) -> list[str]:
    uv = str(Path(sys.executable).parent / "uv")
    tool = [uv, "tool", "run", "--quiet", "--from", PODMAN_COMPOSE, "podman-compose"]
    return [*tool, "--project-name", project, "--file", str(ROOT / "docker-compose.yml")]
