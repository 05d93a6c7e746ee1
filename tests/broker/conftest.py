import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    """Of the learner that leads the run."""
    return Bulletin(client, run).lead()
