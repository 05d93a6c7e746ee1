import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from areal.broker.client import Client

from .meadow import WORKER, Meadow


@pytest.fixture
def meadow(client: Client, run: str, here: Path) -> Meadow:
    return Meadow(client, run, here)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the processes of roles begin with this, and work until they hear another word."""

    python = sys.executable

    def make(begins: str = "", stays: str = "== RUN") -> None:
        script = tmp_path / "role"
        script.write_text(f"#!{python}\n" + WORKER.format(begins=begins, stays=stays))
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))

    make()
    return make
