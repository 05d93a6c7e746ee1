"""The walls of this machine, each kind in turn; one that it lacks skips at home and fails in CI."""

import os
import shutil
import uuid
from collections.abc import Callable

import psutil
import pytest

from areal.broker.errors import ConfigError
from areal.rewards.programs.sandbox import sandbox
from areal.rewards.programs.sandbox.walls import Walls

UNFILTERED = "namespaces without the filter of system calls"
"""The walls alone: as on a machine for which seccomp.py has no numbers."""


@pytest.fixture(params=["namespaces", UNFILTERED, "bubblewrap"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Walls:
    if request.param == UNFILTERED:
        monkeypatch.setattr(sandbox, "program_filter", lambda: b"")
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        return sandbox.find_walls(request.param.split()[0])
    except ConfigError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def survivors(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[psutil.Process]]:
    """All processes that are left of the sandboxes that the test has started."""
    mark = f"# {uuid.uuid4().hex}"  # in the command line, which a fork keeps
    monkeypatch.setattr(sandbox, "_BOOT", f"{sandbox._BOOT}{mark}")

    def living() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if mark in _command(process)]

    return living


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
