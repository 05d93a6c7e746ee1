"""A real Redis for the tests of this process, and a run of its own for each test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from areal.broker.client import Client, connect
from areal.broker.server import EmbeddedRedis

torch.set_num_threads(1)


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
