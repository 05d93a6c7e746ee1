"""What memory there is, by trees of cgroups as they are found."""

from pathlib import Path

import psutil
import pytest

from areal.launch.cluster import cgroups
from areal.launch.cluster.cgroups import machine_bytes

MIB = 2**20


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where cgroups are mounted, of which this process is in none that is there."""
    monkeypatch.setattr(cgroups, "MOUNTED", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text("0::/job/step_0/task\n")
    return tmp_path / "cgroup"


def limit(folder: Path, most: str, used: int, cached: int = 0) -> None:
    """A cgroup of the second version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nactive_file {cached}\ninactive_file {cached}\nfile_mapped 9\n")


def test_without_a_limit_it_is_the_machines(root: Path) -> None:
    total = psutil.virtual_memory().total
    assert machine_bytes()[0] == total
    limit(root / "job" / "step_0", "max", 5)
    assert machine_bytes()[0] == total and 0 < machine_bytes()[1] <= total
    (root.parent / "own").unlink()
    assert machine_bytes()[0] == total


def test_what_is_used_of_a_limit_is_not_free(root: Path) -> None:
    limit(root, f"{100 * MIB}", 70 * MIB)
    assert machine_bytes() == (100 * MIB, 30 * MIB)
    limit(root, f"{100 * MIB}", 120 * MIB)
    assert machine_bytes() == (100 * MIB, 0)


def test_files_that_are_cached_can_be_taken_back(root: Path) -> None:
    limit(root, f"{100 * MIB}", 70 * MIB, cached=20 * MIB)
    assert machine_bytes() == (100 * MIB, 70 * MIB)


def test_the_least_of_all_cgroups_from_ones_own_to_the_root_counts(root: Path) -> None:
    limit(root, "max", 0)
    limit(root / "job", f"{60 * MIB}", 50 * MIB)
    limit(root / "job" / "step_0", f"{80 * MIB}", 20 * MIB)
    limit(root / "job" / "step_0" / "task", f"{90 * MIB}", 1 * MIB)
    limit(root / "job" / "step_1", f"{1 * MIB}", 1 * MIB)
    assert machine_bytes() == (60 * MIB, 10 * MIB)


def test_the_first_version_has_a_tree_for_memory_alone(root: Path) -> None:
    (root.parent / "own").write_text("9:cpu,cpuacct:/job\n4:memory:/job/step\n0::/\n")
    for folder, most in ((root / "memory", 2**63 - 4096), (root / "memory" / "job" / "step", 40 * MIB)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{most}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{30 * MIB}\n")
        (folder / "memory.stat").write_text(f"total_inactive_file {5 * MIB}\ninactive_file 0\n")
    assert machine_bytes() == (40 * MIB, 15 * MIB)


def test_of_a_container_only_its_own_part_is_mounted(root: Path) -> None:
    """Its path is that of the machine all the same, where it has no name space of cgroups."""
    (root.parent / "own").write_text("4:memory:/docker/0123\n")
    (root / "memory").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text(f"{64 * MIB}\n")
    (root / "memory" / "memory.usage_in_bytes").write_text(f"{4 * MIB}\n")
    assert machine_bytes() == (64 * MIB, 60 * MIB)
