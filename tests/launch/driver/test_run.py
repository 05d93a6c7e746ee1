"""What a driver does with what others leave to it, and what it leaves to others; its Supervisor places nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.errors import ArealError
from areal.broker.helm import FAILED, STOPPED
from areal.launch.config import RunConfig, load_run_config
from areal.launch.driver import run as driving
from areal.launch.driver.logbook import read_driving
from areal.launch.driver.progress import Progress
from areal.launch.driver.run import Driver
from areal.launch.records.rundir import METRICS, RunDirectory, read_metrics
from areal.launch.records.words import TEXTS

from .test_progress import step

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"


class FakeSupervisor:
    """Fails as it starts if `fails`, and else has a learner that never ends."""

    fails = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.given_up = ""

    def start(self) -> None:
        if self.fails:
            raise ArealError(self.fails)

    def tick(self) -> None: ...

    def stop(self) -> None: ...

    def all_done(self) -> bool:
        return False

    def is_done(self, name: str) -> bool:
        return False

    def workers(self) -> list[str]:
        return ["rollout-0"]

    def leaving(self) -> dict[str, str]:
        return {}

    def drain_events(self) -> list[tuple[str, str]]:
        return []


@pytest.fixture
def config(here: Path, redis_url: str) -> RunConfig:
    return load_run_config(QUICKSTART, [f"broker.url={redis_url}", f"directory={here / 'runs'}", "cluster.drain_s=0.3"])


@pytest.fixture
def driver(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(driving, "Supervisor", FakeSupervisor)
    with RunDirectory(config.path, config="") as rundir, Progress(config.run, words=TEXTS) as progress:
        yield Driver(config, "nowhere", rundir, progress)


@pytest.fixture
def bulletin(driver: Driver, client: Client) -> Bulletin:
    return Bulletin(client, driver._rundir.key)


def test_a_run_that_fails_has_workers_from_outside_leave(
    driver: Driver, bulletin: Bulletin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSupervisor, "fails", "the cluster has too few GPUs")
    with pytest.raises(ArealError, match="too few GPUs"), driver.logbook.until_end():
        driver.run()
    assert bulletin.ordered() == DRAIN
    told = read_driving(driver._rundir.path)
    assert told is not None and (told.state, told.error) == (FAILED, "the cluster has too few GPUs")
    assert (driver._rundir.path / "summary.json").exists()


def test_a_learner_that_does_not_drain_in_time_is_told(driver: Driver, bulletin: Bulletin) -> None:
    driver._interrupts.ask()
    assert driver.run() == 130
    told = read_driving(driver._rundir.path)
    assert told is not None and told.state == STOPPED and "cluster.drain_s" in told.error
    assert bulletin.ordered() == DRAIN


def test_steps_that_no_driver_has_heard_of_are_kept_by_the_next(driver: Driver, bulletin: Bulletin) -> None:
    """A driver was killed after step 1; on a cluster its learner took two more before it ended too."""
    heard, *others = (step(number, time=time.time() + number) for number in (1, 2, 3))
    driver._rundir.write(heard)
    for record in (heard, *others, {"kind": "step", "time": time.time()}, {"kind": "worker", "time": 0.0}):
        bulletin.report(record)
    driver._rundir.earlier = [heard]
    driver._recall(bulletin)
    found = [record["step"] for record in read_metrics(driver._rundir.path / METRICS) if "step" in record]
    assert found == [1, 2, 3] and driver._tally.summary()["steps"] == 3
    assert bulletin.ordered() == RUN and driver._after == bulletin.last()
