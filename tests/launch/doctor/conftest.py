"""A configuration to look at, of a run beside the test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from areal.launch.config import RunConfig, load_run_config

from ..test_config import CONFIGS

Configure = Callable[..., RunConfig]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """The quickstart's configuration with what is said besides, its run under tmp_path."""

    def load(*overrides: str, name: str = "quickstart") -> RunConfig:
        return load_run_config(CONFIGS / f"{name}.yaml", [f"directory={tmp_path / 'runs'}", *overrides])

    return load
