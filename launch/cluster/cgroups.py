"""What memory this machine has, and what is free of it, within the limits of the cgroups that this process is in.

A container, a job of Slurm and each of its steps, a unit of systemd: each is a cgroup within others, and may have a limit. The
least room that one leaves is what there is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

OWN = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Files:
    """What a version of cgroups calls its files, and of the statistics what can be taken back: files that are cached."""

    limit: str
    used: str
    cached: tuple[str, str]


FIRST = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", cached=("total_active_file", "total_inactive_file"))
SECOND = _Files("memory.max", "memory.current", cached=("active_file", "inactive_file"))


def machine_bytes() -> tuple[int, int]:
    """The memory of this machine and what is free of it; of a cgroup, its limit and what is left until there."""
    seen = psutil.virtual_memory()
    total, available = int(seen.total), int(seen.available)
    for limit, used in _limits():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def _limits() -> Iterator[tuple[int, int]]:
    """The limit and the use of each cgroup that has one, from this process's own up to the root.

    In a container the path may be that of the machine, of which only the container's own part is mounted, as the root.
    """
    for files, root, path in _own():
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit = _number(folder / files.limit)
            if limit is not None:
                yield limit, _used(folder, files)
            if folder == root:
                break


def _own() -> Iterator[tuple[_Files, Path, str]]:
    """Where this process is in the tree of the second version of cgroups, and in that of the first for memory."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield SECOND, MOUNTED, path
        elif "memory" in controllers.split(","):
            yield FIRST, MOUNTED / "memory", path


def _used(folder: Path, files: _Files) -> int:
    used = _number(folder / files.used) or 0
    try:
        told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return used - sum(int(told.get(name, 0)) for name in files.cached)
    except (OSError, ValueError):
        return used


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max", or no such file
        return None
