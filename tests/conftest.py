"""A real Redis for the tests of this process, and a run of its own for each test; and what may run beside what.

With `pytest -n 2 --dist loadgroup --no-loadscope-reorder` whole runs go one after another in one process, and the tests of
everything else in the other, by their files.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from areal.broker.client import Client, connect
from areal.broker.server import EmbeddedRedis

torch.set_num_threads(1)

RUNS = ("cluster", "e2e", "chaos")
"""Folders of tests that start whole runs, which take all that a machine has."""


@pytest.hookimpl(tryfirst=True)  # before the groups are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those first: they take the longest."""
    here = Path(__file__).parent
    is_run = {item: item.path.relative_to(here).parts[0] in RUNS for item in items}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("runs" if is_run[item] else item.path.name))
    items.sort(key=lambda item: not is_run[item])


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lives as long as this pytest process."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def client(redis_url: str) -> Iterator[Client]:
    made = connect(redis_url, timeout_s=10.0)
    yield made
    made.close()


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """A run's name that no other test has."""
    return f"{Path(request.node.nodeid).stem[:40].replace(':', '-')}-{uuid.uuid4().hex[:8]}"
