import time

import pytest

from areal.broker.client import Client
from areal.broker.rollcall import Member, RollCall
from areal.launch.driver import watch
from areal.launch.driver.watch import RollWatch


def test_a_member_that_falls_silent_is_told_once_and_again_when_it_is_heard(
    client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    roll = RollCall(client, run, silent_after_s=0.2)
    looking = RollWatch(roll)
    assert looking.changes() == []
    roll.beat(Member("rollout-0", "rollout", "box", 77, 0, 0, 3))
    assert looking.changes() == []
    time.sleep(0.3)
    ((level, text),) = looking.changes()
    assert level == "warning" and text.startswith("rollout-0 (process 77 on box) has been silent for 0 s; what it was")
    assert looking.changes() == []
    roll.beat(Member("rollout-0", "rollout", "box", 78, 0, 0, 3))
    assert looking.changes() == [("info", "rollout-0 is heard again")]
    assert looking.changes() == []


def test_a_silent_member_that_is_struck_off_is_not_heard_again(
    client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    roll = RollCall(client, run, silent_after_s=0.0)
    looking = RollWatch(roll)
    roll.beat(Member("a", "rollout", "box", 1, 0, 0, 0))
    time.sleep(0.01)
    assert len(looking.changes()) == 1
    roll.leave("a")
    assert looking.changes() == []


def test_those_who_were_silent_before_it_looked_are_not_told(
    client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    roll = RollCall(client, run, silent_after_s=0.05)
    roll.beat(Member("a", "rollout", "box", 1, 0, 0, 0))
    time.sleep(0.1)
    looking = RollWatch(roll)
    assert looking.changes() == []
    roll.beat(Member("a", "rollout", "box", 2, 0, 0, 0))
    assert looking.changes() == []
    time.sleep(0.1)
    assert [level for level, _ in looking.changes()] == ["warning"]


def test_it_does_not_look_all_the_time(client: Client, run: str) -> None:
    roll = RollCall(client, run, silent_after_s=0.0)
    looking = RollWatch(roll)
    looking.changes()
    roll.beat(Member("a", "rollout", "box", 1, 0, 0, 0))
    time.sleep(0.01)
    assert looking.changes() == []
