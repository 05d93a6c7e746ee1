"""Which walls this machine has for a sandbox, and the command that starts one behind them.

namespaces    of our own making (namespaces.py): with root's rights, or where the kernel gives namespaces of users to all
bubblewrap    the program bwrap: where only it may have them, as on Ubuntu from 24.04 on
none          resource limits and the filter of system calls alone; only by the user's word (UNSANDBOXED)
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ....broker.errors import ConfigError
from .confine import FIRST_USER, NOBODY
from .inside import BUBBLEWRAP, NAMESPACES, NONE
from .namespaces import DEVICES

ANY = "any"
_USERS_OF_EACH = 256  # a process has an id below 2^22, and a user one below 2^32
UNSANDBOXED = "none: run what the model writes on this machine, as me"
_PATHS = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo", "/lib", "/lib32", "/lib64", "/nix/store")
_MENDING = (
    "Mend it in one of these ways: allow namespaces of users (sysctl kernel.unprivileged_userns_clone=1, or "
    "user.max_user_namespaces=10000, or kernel.apparmor_restrict_unprivileged_userns=0); install bubblewrap; in a "
    "container, start that with --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined. "
    f"Or have programs run without a sandbox, which can read and delete all that you can: kwargs.walls={UNSANDBOXED!r}"
)


@dataclass(frozen=True, slots=True)
class Walls:
    """One kind of them, and the folders of packages that programs may import."""

    kind: str
    packages: tuple[str, ...] = ()

    @property
    def shared(self) -> list[str]:
        """The files and folders that are seen inside, read-only: Python with its libraries, and these packages."""
        return _outermost([*_python_paths(), *self.packages])

    def command(self, boot: str, disk_mib: int) -> list[str]:
        """What starts Python with this code, as the first process of a sandbox that has a disk of so much."""
        python = [os.path.realpath(sys.executable), "-S", "-s", "-P", "-B", "-c", boot]
        if self.kind != BUBBLEWRAP:
            return python
        unshared = [f"--unshare-{kind}" for kind in ("ipc", "net", "pid", "uts", "cgroup-try")]
        as_root = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        command = [shutil.which("bwrap") or "bwrap", *unshared, "--die-with-parent", "--new-session", "--as-pid-1"]
        command += ["--size", str(disk_mib << 20), "--perms", "1777", "--tmpfs", "/tmp"]
        command += as_root if os.geteuid() == 0 else []
        folders = {str(folder) for path in (*self.shared, *DEVICES) for folder in Path(path).parents}
        for folder in sorted(folders - {"/", "/tmp"}):  # else some are root's alone
            command += ["--perms", "0755", "--dir", folder]
        for path in self.shared:
            link = os.path.islink(path)
            command += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
        command += [argument for device in DEVICES for argument in ("--dev-bind", device, device)]
        return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", *python]


def user_of(process: int, sandbox: int) -> int:
    """Of a process's n-th sandbox, where users are for root to choose: one that no other has at the same time.

    Nor has it the one before, whose processes may still be ending, and a user's processes are counted.
    """
    return FIRST_USER + process * _USERS_OF_EACH + sandbox % _USERS_OF_EACH if os.geteuid() == 0 else NOBODY


def candidates(wanted: str, packages: Sequence[str]) -> list[Walls]:
    """The walls to try in turn for kwargs.walls; raises ConfigError for what is no such value."""
    kinds = {ANY: [NAMESPACES, BUBBLEWRAP], NAMESPACES: [NAMESPACES], BUBBLEWRAP: [BUBBLEWRAP], UNSANDBOXED: [NONE]}
    if wanted not in kinds:
        raise ConfigError(f"kwargs.walls is {wanted!r}, and wanted is one of {', '.join(map(repr, kinds))}")
    if sys.platform != "linux":
        raise ConfigError(
            "the reward code runs programs in a sandbox of Linux, and this is none: use a machine or container"
        )
    for folder in packages:
        if not os.path.isdir(folder):
            raise ConfigError(f"kwargs.packages names {folder!r}, and there is no such folder")
    return [Walls(kind, tuple(os.path.realpath(folder) for folder in packages)) for kind in kinds[wanted]]


def refused(reasons: Iterable[str]) -> ConfigError:
    """The error of a machine without walls, with what each kind lacks."""
    return ConfigError(
        f"no sandbox can be had here, and programs that a model wrote are not run without. {'; '.join(reasons)}. {_MENDING}"
    )


@cache
def _python_paths() -> tuple[str, ...]:
    python = os.path.realpath(sys.executable)
    prefixes = {os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    libraries = [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    wanted = [*_PATHS, *libraries, os.path.dirname(os.path.realpath(os.__file__)), python, "/etc/ld.so.cache"]
    return tuple(path for path in wanted if os.path.exists(path))


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths that lie in none of the others."""
    listed = sorted(set(paths))
    return [path for path in listed if not any(other != path and Path(path).is_relative_to(other) for other in listed)]
