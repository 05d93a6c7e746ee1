"""A folder of runs to stand in, and the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from areal.broker.address import redacted
from areal.broker.client import Client
from areal.launch.cli import main

from .stage import Stage, make_directory

Areal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the environment that a shared Redis wants."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AREAL_BROKER_URL", raising=False)
    monkeypatch.setenv("AREAL_REDIS_PASSWORD", redis_url.split(":")[2].partition("@")[0])
    return tmp_path


@pytest.fixture
def shared(redis_url: str) -> str:
    """The URL of the tests' server, as a run directory has it."""
    return f"redis://***@{redacted(redis_url)}/0"


@pytest.fixture
def stage(here: Path, client: Client, shared: str, run: str) -> Stage:
    """The run of runs/RUN, on the tests' server; RUN is the name of the test."""
    return Stage(client, make_directory(here / "runs" / run, url=shared))


@pytest.fixture
def areal(here: Path, capsys: pytest.CaptureFixture[str]) -> Areal:
    """`areal …`: the exit code, and what was written to standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call
