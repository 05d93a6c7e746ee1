"""A run as others see it: by its directory, and by its Redis."""

from pathlib import Path

import pytest

from areal.broker.client import Client
from areal.broker.errors import ArealError, BrokerUnavailable
from areal.broker.helm import STARTING
from areal.launch.control import look as looks
from areal.launch.control.locate import Place
from areal.launch.control.watched import require_under_way, watch
from areal.launch.driver.logbook import Logbook, read_driving

from ..fake_driver import FakeDriver, until
from ..stage import Stage, make_directory


@pytest.fixture
def directory(stage: Stage, here: Path, run: str) -> Path:
    return here / "runs" / run


def test_by_the_redis_alone_it_is_there_while_it_is_heard(
    stage: Stage, client: Client, redis_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watch(stage.key, Place(broker=redis_url)) as run:
        assert run.directory is None and run.look().driving is None
        with pytest.raises(ArealError, match="is not under way: no driver of it is known"):
            require_under_way(run)
        with FakeDriver(directory, client) as driver:
            until(lambda: run.look().alive)
            assert require_under_way(run).directory == str(directory)
            monkeypatch.setattr(looks, "SILENT_AFTER_S", 0.0)
            assert run.look().gone
            driver.end(0)
        look = run.look()
        assert look.over and look.driving is not None and look.driving.exit_code == 0


def test_what_is_not_under_way_is_told_how_it_stands(directory: Path, client: Client, here: Path, run: str) -> None:
    with FakeDriver(directory, client) as driver:
        driver.end(130)
    with (
        watch(run, Place(here / "runs")) as seen,
        pytest.raises(ArealError, match=f"^{run} is not under way: it was stopped; the same `areal run` resumes it$"),
    ):
        require_under_way(seen)


def test_a_driver_that_has_said_nothing_yet_is_waited_for(
    directory: Path, client: Client, here: Path, run: str
) -> None:
    with FakeDriver(directory, client) as driver:
        driver.vanish()
    old = read_driving(directory)
    with FakeDriver(directory, client, state=STARTING) as driver, watch(run, Place(here / "runs")) as seen:
        found = require_under_way(seen)
        assert old is not None and found.invocation == driver.logbook.invocation != old.invocation


def test_a_redis_of_its_own_that_is_not_up_is_not_started(here: Path) -> None:
    make_directory(here / "runs" / "own")
    Logbook(here / "runs" / "own", run="own")
    with watch("own", Place(here / "runs")) as run:
        with pytest.raises(BrokerUnavailable, match="the Redis of own is not up"):
            run.helm()
        assert run.look().gone
    assert not (here / "runs" / "own" / "redis").exists()
