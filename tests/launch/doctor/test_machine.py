import importlib.metadata
import resource
import sys
from pathlib import Path

import pytest

from areal.launch.doctor import machine
from areal.launch.doctor.finding import Finding

from .conftest import Configure


def only(found: object) -> Finding:
    (finding,) = found  # type: ignore[misc]
    assert isinstance(finding, Finding)
    return finding


def test_python_and_packages_are_told() -> None:
    python, packages = machine.look_at_python()
    assert (python.level, packages.level) == ("ok", "ok")
    assert sys.executable in python.seen and f"torch {importlib.metadata.version('torch')}" in packages.seen


def test_packages_that_are_missing_or_of_another_version_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["redis[hiredis]>=99", "no-such-package>=2", "numpy", "nothing; python_version < '3'", "x; extra == 'gpu'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    _, old, missing = machine.look_at_python()
    assert old.level == missing.level == "problem"
    assert "redis is" in old.seen and old.remedy == "pip install 'redis>=99'"
    assert missing.seen == "no-such-package is not installed" and "no-such-package>=2" in missing.remedy


def test_another_system_than_linux_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert next(machine.look_at_python()).level == "problem"


def test_an_engine_is_wanted_where_the_run_is(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> None:
    config, images = configure(), configure(name="rlcm_digits_compress")
    assert "vllm" in only(machine.look_at_engine(config)).seen
    assert "diffusers" in only(machine.look_at_engine(images)).seen
    monkeypatch.setattr(machine, "version_of", lambda package: None)
    assert only(machine.look_at_engine(config)).level == "problem"
    assert "areal-rl[images]" in only(machine.look_at_engine(images)).remedy
    assert only(machine.look_at_engine(None)).level == "warning"
    elsewhere = configure("cluster.address=auto", "broker.url=redis://host")
    assert only(machine.look_at_engine(elsewhere)).level == "warning"


def test_threads_are_held_against_cores(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1})
    assert only(machine.look_at_cores(configure())).level == "ok"
    many = only(machine.look_at_cores(configure("rollout.threads=3")))
    assert many.level == "warning" and "rollout.threads to 2" in many.remedy
    crowded = only(machine.look_at_cores(configure("rollout.workers=4")))
    assert crowded.level == "warning" and "2, for 5 threads" in crowded.seen


def test_the_disk_has_room_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "runs" / "not there yet"
    free = machine.shutil.disk_usage(tmp_path).free
    assert f"free in {tmp_path}" in only(machine.look_at_disk(directory)).seen
    assert only(machine.look_at_disk(directory, 0.75 * free)).level == "warning"
    full = only(machine.look_at_disk(directory, 2.0 * free))
    assert full.level == "problem" and "checkpoint.keep" in full.remedy
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert "cannot be written to" in only(machine.look_at_disk(directory)).seen
    assert not directory.parent.exists()


def test_shared_memory_holds_rays_objects_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    assert only(machine.look_at_shared_memory()).level == "ok"
    monkeypatch.setattr(machine, "OBJECT_STORE_BYTES", 2**60)
    small = only(machine.look_at_shared_memory())
    assert small.level == "warning" and "--shm-size" in small.remedy
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert only(machine.look_at_shared_memory()).level == "warning"


@pytest.mark.parametrize(("limit", "level"), [(1024, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_files_that_may_be_open(limit: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert only(machine.look_at_limits()).level == level


def test_sockets_of_ray_want_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert only(machine.look_at_sockets()).level == "ok"
    monkeypatch.setenv("RAY_TMPDIR", "/" + "long" * 10)
    long = only(machine.look_at_sockets())
    assert long.level == "problem" and "RAY_TMPDIR" in long.remedy
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    assert only(machine.look_at_sockets()).level == "problem"

    def refuse(*arguments: object) -> None:
        raise OSError("no loopback")

    monkeypatch.setattr(machine.socket, "create_server", refuse)
    assert "no loopback" in only(machine.look_at_sockets()).seen


def test_a_redis_of_the_runs_own_starts_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    well = only(machine.look_at_own_redis())
    assert well.level == "ok" and "starts here on loopback" in well.seen
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = only(machine.look_at_own_redis())
    assert missing.level == "problem" and "no redis-server found" in missing.seen
