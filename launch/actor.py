"""The Ray actor of a role: starts the role as a process of its own on the node where Ray placed it, and waits.

A process of its own because vLLM forks, CUDA and signals want a clean one, and because its memory and its output are
then the role's alone. It ends with the actor, whatever ends that.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

from ..broker import errors
from ..broker.lifetime import begin_child
from .roles import RoleSpec

MAX_REPORT_BYTES = 65_536


class RoleActor:
    """Runs one role."""

    def __init__(self, spec: RoleSpec) -> None:
        self._spec = replace(spec, host=_own_host())

    def run(self) -> None:
        """Until the role ends; raises the ArealError that it ended on, or one that tells how its process died."""
        reading, writing = os.pipe()
        self._spec.log.parent.mkdir(parents=True, exist_ok=True)
        with self._spec.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "areal.launch.roles", str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=os.environ | _environment(),
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        os.close(writing)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._spec.to_json().encode())
            process.stdin.close()
        exit_code = process.wait()
        report = _read_now(reading)
        os.close(reading)
        if exit_code != 0:
            raise _error_of(exit_code, report)


def _environment() -> dict[str, str]:
    """What a role's process needs to import what is imported here, and to find this Ray for actors of its own."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "RAY_ADDRESS": address}


def _own_host() -> str:
    """The address by which Ray, and so every node, knows this one."""
    import ray

    host: str = ray.util.get_node_ip_address()
    return host


def _read_now(descriptor: int) -> bytes:
    """What lies in a pipe; a process that outlived the role may still hold its other end."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, MAX_REPORT_BYTES)
    except BlockingIOError:
        return b""


def _error_of(exit_code: int, report: bytes) -> Exception:
    """The error that a role reported, as the exception of ours that it was; else one that names the exit code."""
    try:
        told: dict[str, Any] = json.loads(report)
    except ValueError:
        how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        return errors.ProcessDied(f"its process ended by {how} without a word")
    kind = getattr(errors, told["kind"], None)
    if isinstance(kind, type) and issubclass(kind, errors.ArealError):
        return kind(told["text"])
    return errors.ProcessDied(f"{told['kind']}: {told['text']}")
