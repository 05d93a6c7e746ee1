"""Whom workers from outside wait for, and for how long."""

import time

import pytest

from areal.broker.helm import DRAINING, FAILED, Helm
from areal.broker.keys import Keys
from areal.launch.fleet import vigil
from areal.launch.fleet.vigil import GIVEN_UP_S, Vigil

from .meadow import Meadow


class Listener:
    """A vigil, what it said, and a clock that the test moves on."""

    def __init__(self, meadow: Meadow, monkeypatch: pytest.MonkeyPatch) -> None:
        self.meadow, self.late_s, self.said = meadow, 0.0, list[str]()
        began = time.monotonic()
        monkeypatch.setattr(vigil.time, "monotonic", lambda: began + self.late_s)
        self.vigil = Vigil(Helm(meadow.client, meadow.key), lambda text, style: self.said.append(text))

    def look(self, late_s: float) -> str:
        """Once the driver was last heard so long ago."""
        self.late_s = late_s
        self.meadow.has_been_silent(late_s)
        return self.vigil.look()


@pytest.fixture
def listener(meadow: Meadow, monkeypatch: pytest.MonkeyPatch) -> Listener:
    return Listener(meadow, monkeypatch)


def test_a_driver_that_is_heard_is_not_spoken_of(listener: Listener) -> None:
    assert listener.vigil.look() == "" == listener.look(10.0)
    listener.meadow.drive(DRAINING)
    assert listener.vigil.look() == "" and listener.said == []


def test_one_that_is_silent_is_waited_for_and_its_successor_is_welcome(listener: Listener) -> None:
    for late_s in (20.0, 60.0, GIVEN_UP_S - 1):
        assert listener.look(late_s) == ""
    (said,) = listener.said
    assert said == "the run's driver is silent; the workers wait for it, or another in its place, 4 min more"
    listener.meadow.drive()
    assert listener.vigil.look() == "" and listener.said[1:] == ["the run has a driver again"]


def test_one_that_stays_silent_is_given_up(listener: Listener) -> None:
    why = listener.look(GIVEN_UP_S + 1)
    assert why.startswith("no driver has been heard for 5 min: its driver (process 12 on box) was killed")


def test_the_end_of_a_driver_is_heard_at_once(listener: Listener) -> None:
    listener.meadow.drive(FAILED, error="boom")
    assert listener.vigil.look() == "it has failed (exit code 1): boom"


def test_a_redis_that_has_forgotten_the_driver_is_not_its_end(listener: Listener) -> None:
    listener.meadow.client.delete(Keys(listener.meadow.key).driver)
    assert listener.vigil.look() == ""
    listener.late_s = GIVEN_UP_S + 1
    assert listener.vigil.look() == "no driver has been heard for 5 min: no driver of it is known"
