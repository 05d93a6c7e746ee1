"""The Ray actor of a role: starts the role as a process of its own on the node where Ray placed it, and waits.

A process of its own because vLLM forks, CUDA and signals want a clean one, and because its memory and its output are
then the role's alone. It ends with the actor, whatever ends that.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...rewards.shipped import FOLDER_VARIABLE, PASSED_VARIABLE, RUNTIME_VARIABLE, find_shipped, renamed
from ..records.rundir import IDENTITY
from ..roles import RoleSpec
from .process import RoleProcess, own_environment, role_command

MAX_LOG_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a role has been placed: Ray's id of the node, its address, and whether the run directory is seen from there."""

    node: str
    host: str
    shares_directory: bool


@dataclass(frozen=True, slots=True)
class Cargo:
    """Where paths of the machine of `areal run` lie in what was shipped, and its working directory."""

    moved: Mapping[str, str]
    working_directory: str


class RoleActor:
    """Runs one role; where it is, and what it prints, can be asked meanwhile."""

    def __init__(self, spec: RoleSpec, cargo: Cargo | None = None) -> None:
        self._spec = replace(spec, host=_own_host())
        self._shipped = self._folder = None
        if cargo is not None:
            self._shipped = find_shipped()
            moved = {here: str(self._shipped / there) for here, there in cargo.moved.items()}
            self._spec = replace(
                self._spec, config=renamed(spec.config, moved), model_path=renamed(spec.model_path, moved)
            )
            folder = Path(renamed(cargo.working_directory, moved))
            self._folder = folder if folder.is_dir() and folder.is_relative_to(self._shipped) else None
        self._log_from = self._log_bytes()

    def __repr__(self) -> str:
        return self._spec.name

    def seat(self) -> Seat:
        """Where this is."""
        import ray

        try:
            identity = (Path(self._spec.directory) / IDENTITY).read_text(encoding="utf-8").strip()
        except OSError:
            identity = ""
        shares = bool(identity) and self._spec.run_key.endswith(identity)
        return Seat(ray.get_runtime_context().get_node_id(), self._spec.host, shares)

    def log_since(self, offset: int) -> bytes:
        """What the role has printed, from so many bytes after its beginning on, or the next part of it."""
        if not self._spec.log.exists():
            return b""
        with self._spec.log.open("rb") as log:
            log.seek(self._log_from + offset)
            return log.read(MAX_LOG_BYTES)

    def _log_bytes(self) -> int:
        return self._spec.log.stat().st_size if self._spec.log.exists() else 0

    def run(self) -> None:
        """Until the role ends; raises the ArealError that it ended on, or one that tells how its process died."""
        process = RoleProcess(self._spec, self._environment(), folder=self._folder, command=self._command())
        process.require_good_end()

    def _command(self) -> list[str]:
        return role_command()

    def _environment(self) -> dict[str, str]:
        """All of it: what is configured for the role, and what it needs to find this Ray for actors of its own."""
        import ray

        context = ray.get_runtime_context()
        given = {**self._spec.config.get("cluster", {}).get("env", {}).get(self._spec.role, {})}
        given |= self._spec.environment
        own = {
            "PYTHONPATH": os.pathsep.join(filter(None, (own_environment()["PYTHONPATH"], given.get("PYTHONPATH")))),
            "RAY_ADDRESS": context.gcs_address,
            PASSED_VARIABLE: ",".join(given),
        }
        if self._shipped is not None:
            own |= {
                FOLDER_VARIABLE: str(self._shipped),
                RUNTIME_VARIABLE: json.dumps({"py_modules": context.runtime_env["py_modules"]}),
            }
        return os.environ | given | own


def _own_host() -> str:
    """The address by which Ray, and so every node, knows this one."""
    import ray

    host: str = ray.util.get_node_ip_address()
    return host
