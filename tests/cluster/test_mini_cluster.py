"""The mini-cluster in real containers, where podman can start them; `make cluster-test` is the same with a table."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from .__main__ import problems, prove
from .podman import Unable, is_installed
from .stages import Stages


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_when_containers_die(tmp_path: Path) -> None:
    if not os.environ.get("CI") and not is_installed():
        pytest.skip("podman is not here, and only CI has it installed without being asked: see make cluster-test")
    stages = Stages()
    try:
        outcome = prove(tmp_path, stages)
    except Unable as reason:
        pytest.skip(str(reason))
    finally:
        Console(width=140).print(stages.table())
    assert not problems(outcome)
