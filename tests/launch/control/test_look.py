"""How a driver does, by its run directory."""

import os
from pathlib import Path

import pytest

from areal.broker.client import Client
from areal.broker.errors import ArealError
from areal.launch.control.look import how_it_stands, look_into
from areal.launch.records.rundir import hold

from ..fake_driver import FakeDriver
from ..stage import Stage

NOBODY = 2**22 + 1
"""No process has such a number."""


@pytest.fixture
def directory(stage: Stage, here: Path, run: str) -> Path:
    return here / "runs" / run


def test_a_driver_is_there_while_it_holds_the_directory(directory: Path, client: Client) -> None:
    assert look_into(directory).driving is None
    with FakeDriver(directory, client) as driver:
        look = look_into(directory)
        assert look.alive and look.held and not look.over and not look.gone
        driver.vanish()
        look = look_into(directory)
        assert look.gone and not look.alive and not look.over
        assert "was killed; the same `areal run` resumes it" in how_it_stands(look)


def test_one_that_has_ended_said_so(directory: Path, client: Client) -> None:
    with FakeDriver(directory, client) as driver:
        driver.fail(ArealError("it broke"))
    look = look_into(directory)
    assert look.over and not look.gone and how_it_stands(look) == "it has failed (exit code 1): it broke"


def test_another_who_holds_the_directory_is_no_driver(directory: Path, client: Client) -> None:
    with FakeDriver(directory, client) as driver:
        driver.vanish()
    lock = hold(directory)
    lock.seek(0)
    lock.truncate()
    lock.write("process 1 on elsewhere")
    lock.flush()
    look = look_into(directory)
    assert look.held and not look.alive and not look.gone and look.displaced
    assert "is gone, and another process holds its run directory" in how_it_stands(look)
    lock.close()
    assert look_into(directory).gone


@pytest.mark.parametrize(
    ("guard", "comes"), [(os.getpid(), True), (NOBODY, False), (None, False)], ids=["there", "gone", "none"]
)
def test_another_comes_where_there_is_a_guard(directory: Path, client: Client, guard: int | None, comes: bool) -> None:
    with FakeDriver(directory, client, guard=guard) as driver:
        assert look_into(directory).coming and not look_into(directory).awaited
        driver.vanish()
    look = look_into(directory)
    assert look.gone and look.awaited == look.coming == comes
    assert ("has not started another yet" in how_it_stands(look)) == comes


def test_a_driver_that_has_ended_is_not_replaced(directory: Path, client: Client) -> None:
    with FakeDriver(directory, client, guard=os.getpid()) as driver:
        driver.end(0)
    assert not look_into(directory).coming
