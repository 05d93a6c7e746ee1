"""The process of a role: started with its specification, watched, and asked what it ended on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...broker import errors
from ...broker.lifetime import begin_child
from ..roles import RoleSpec

MAX_REPORT_BYTES = 65_536


class RoleProcess:
    """Runs one role; it ends with the thread that has started it. What the role prints goes to its log."""

    def __init__(
        self,
        spec: RoleSpec,
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """
        environment: all of it.
        folder: the working directory; that of this process by default.
        command: what is a role by a specification on standard input; role_command by default.
        """
        self.spec = spec
        self._reading, writing = os.pipe()
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*(command or role_command()), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=environment,
                cwd=folder,
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        os.close(writing)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(spec.to_json().encode())
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether it runs no more, without waiting."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it, and wait until it has."""
        self._process.kill()
        self._process.wait()

    def require_good_end(self) -> None:
        """Wait until the role has ended; raises the ArealError that it ended on, or one that tells how its process died."""
        exit_code = self._process.wait()
        report = _read_now(self._reading)
        os.close(self._reading)
        if exit_code != 0:
            raise _error_of(exit_code, report)


def role_command() -> list[str]:
    """What runs launch/roles.py."""
    return [sys.executable, "-P", "-m", "areal.launch.roles"]


def own_environment() -> dict[str, str]:
    """The environment of this process, with what a role's needs to import what is imported here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


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
