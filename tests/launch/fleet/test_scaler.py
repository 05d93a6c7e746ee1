"""What the driver does about the number of workers, over a real Redis; Ray is a fake."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from areal.broker.bulletin import LEAVE, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.errors import ProcessDied
from areal.broker.fleet import Fleet, Roster, Wish
from areal.broker.keys import CONSUMERS, Keys, LaneKeys
from areal.broker.lane import Lane
from areal.broker.rollcall import Member, RollCall
from areal.launch.cluster.beside import NOTHING
from areal.launch.config import RunConfig, load_run_config
from areal.launch.fleet import scaler as scaling
from areal.launch.fleet.scaler import Broker, Scaler

from ...broker.samples import LEASE_S, group, lease, prompts, tickets_of
from ..fake_ray import Cluster, spec
from .test_balance import step

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"
MEMBER = Member("rollout-0", "rollout", "box", 77, 0.0, 0.0, 3)


class House:
    """A scaler, its supervisor and its Redis; every tick looks at the roll."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: Client, run: str, *overrides: str) -> None:
        monkeypatch.setattr(scaling, "LOOK_S", 0.0)
        self.client, self.run = client, run
        self.fleet = Fleet(client, run)
        self.roll = RollCall(client, run, silent_after_s=5.0)
        config: RunConfig = load_run_config(QUICKSTART, overrides)
        self.cluster = Cluster(monkeypatch, ranks=1, workers=config.rollout.workers).start()
        broker = Broker(self.fleet, self.roll, Lane(client, run, "train"))
        self.scaler = Scaler(
            config, broker, self.cluster.supervisor, lambda index: spec(f"rollout-{index}"), beside=NOTHING
        )
        self.scaler.begin()
        self.told: list[str] = []

    def tick(self, *, ending: bool = False) -> Roster:
        self.cluster.tick()
        self.scaler.tick(ending=ending)
        self.told += [text for _, text in self.scaler.drain_events()]
        roster = self.fleet.roster()
        assert roster is not None
        return roster

    def beat(self, name: str, *, version: int = 3) -> None:
        self.roll.beat(replace(MEMBER, name=name, version=version))

    def members(self) -> list[str]:
        return [heard.member.name for heard in self.roll.heard()]

    def order(self, name: str) -> str:
        return Bulletin(self.client, self.run).ordered_of(name)

    def wish(self, count: int) -> Roster:
        return self.wish_for(Wish(count))

    def wish_for(self, wish: Wish) -> Roster:
        self.fleet.wish(wish)
        return self.tick()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, client: Client, run: str) -> House:
    return House(monkeypatch, client, run)


def test_without_a_wish_it_is_as_configured(house: House) -> None:
    assert house.tick() == Roster(1, ("rollout-0",))
    assert house.fleet.offer() is not None and house.told == []


def test_up_and_down_and_up_again_with_names_that_nobody_bore(house: House) -> None:
    roster = house.wish(3)
    assert (roster.workers, roster.trouble) == (("rollout-0", "rollout-1", "rollout-2"), "")
    roster = house.wish(1)
    assert roster.workers == ("rollout-0",) and roster.leaving == ("rollout-1", "rollout-2"), "the newest leave"
    assert [house.order(f"rollout-{index}") for index in range(3)] == [RUN, LEAVE, LEAVE]
    house.cluster.ends("rollout-1", True)
    assert house.tick().leaving == ("rollout-2",)
    assert house.wish(2).workers == ("rollout-0", "rollout-3")
    assert house.told == [
        f"rollout workers: {before} → {after} (areal scale)" for before, after in ((1, 3), (3, 1), (1, 2))
    ]
    assert house.cluster.placements() == {"learner": 1, **{f"rollout-{index}": 1 for index in range(4)}}


def test_who_has_left_leaves_no_trace(house: House) -> None:
    house.wish(2)
    house.beat("rollout-1")
    house.wish(1)
    house.cluster.ends("rollout-1", ProcessDied("killed while it left"))
    house.tick()
    assert house.members() == [] and house.order("rollout-1") == RUN


def test_a_wish_is_followed_once(house: House) -> None:
    wish = Wish(2)
    house.fleet.wish(wish)
    house.tick()
    house.wish(1)
    house.fleet.wish(wish)  # as a Redis that comes back a second older has it
    assert house.tick().count == 1


def test_what_it_says_is_said_again_to_a_redis_that_lost_it(house: House) -> None:
    house.wish(2)
    roster = house.wish(1)
    keys = Keys(house.run)
    house.client.delete(keys.fleet, keys.leave("rollout-1"), keys.offer, keys.wish)
    assert house.tick() == roster
    assert house.order("rollout-1") == LEAVE and house.fleet.offer() is not None


def test_a_configuration_that_is_too_long_to_be_offered_stops_no_run(
    monkeypatch: pytest.MonkeyPatch, client: Client, run: str
) -> None:
    house = House(monkeypatch, client, run, f"rollout.sampling.stop=[{'x' * 2**20}]")
    assert house.tick().workers == ("rollout-0",) and house.fleet.offer() is None
    assert house.told[0].startswith("workers from outside cannot join: the configuration is 10")


def test_a_wish_of_an_earlier_invocation_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, client: Client, run: str
) -> None:
    old = Wish(4)
    assert House(monkeypatch, client, run).wish_for(old).count == 4
    house = House(monkeypatch, client, run, "rollout.workers=2")
    assert house.tick().count == 2
    house.fleet.wish(old)
    assert house.tick().count == 2


def test_a_wish_that_was_there_before_is_answered(monkeypatch: pytest.MonkeyPatch, client: Client, run: str) -> None:
    """Of somebody who waits until the driver has started."""
    earlier = House(monkeypatch, client, run)
    earlier.wish(3)
    wish = Wish(2)
    Fleet(client, run).wish(wish)
    roster = House(monkeypatch, client, run).tick()
    assert (roster.count, roster.wish, roster.trouble) == (2, wish.id, "")


def test_who_worked_for_an_earlier_driver_is_off_the_roll(
    monkeypatch: pytest.MonkeyPatch, client: Client, run: str
) -> None:
    earlier = House(monkeypatch, client, run, "rollout.workers=2")
    earlier.wish(1)
    for name in ("learner", "rollout-0", "rollout-1", "rollout-17", "rollout-j0123abcd-0", "rollout-mine"):
        earlier.beat(name)
    assert earlier.order("rollout-1") == LEAVE
    house = House(monkeypatch, client, run, "rollout.workers=2")
    assert house.members() == ["learner", "rollout-0", "rollout-1", "rollout-j0123abcd-0", "rollout-mine"]
    assert house.order("rollout-1") == RUN, "what its namesake was told is not for this one"


def test_of_who_died_holding_leases_the_lanes_are_rid_once_those_have_moved(house: House) -> None:
    epoch, lane = Bulletin(house.client, house.run).lead(), Lane(house.client, house.run, "train")
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    tickets = tickets_of(house.client, house.run)
    lease(tickets, "rollout-17", 1)
    house.tick()
    assert consumers(house) == {b"rollout-17"}
    time.sleep(1.5 * LEASE_S)
    house.beat("rollout-0")
    (taken,) = lease(tickets_of(house.client, house.run), "rollout-0", 1)
    assert tickets.complete(taken, group(0))
    house.tick()
    assert consumers(house) == {b"rollout-0"}


def consumers(house: House) -> set[bytes]:
    found: Any = house.client.xinfo_consumers(LaneKeys(house.run, "train").prompts, CONSUMERS)
    return {each["name"] for each in found}


def test_a_worker_that_ended_though_nobody_told_it_to_is_replaced(house: House) -> None:
    house.cluster.ends("rollout-0", True)
    assert house.tick().workers == ("rollout-1",)


def test_more_than_there_is_room_for_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.cluster.ray, "available_resources", lambda: {"CPU": 2.0}, raising=False)
    roster = house.wish(4)
    assert roster.count == 1 and roster.workers == ("rollout-0",)
    assert roster.trouble == "there is no room for 3 more: they need 3 CPU (there are 2 left)"
    assert house.wish(3).trouble == ""


def test_one_that_is_given_up_is_told_to_whoever_wished_for_it(house: House) -> None:
    house.wish(2)
    life = house.cluster.life("rollout-1")
    life.seat.end = life.group.room.end = False
    house.cluster.now += 1000
    roster = house.tick()
    assert roster.count == 1 and "rollout-1 is given up: Ray found no place" in roster.trouble
    assert house.tick().workers == ("rollout-0",)


def test_a_run_that_is_ending_neither_grows_nor_replaces(house: House) -> None:
    house.fleet.wish(Wish(3))
    house.cluster.ends("rollout-0", True)
    roster = house.tick(ending=True)
    assert roster.trouble == "the run is ending" and roster.workers == ()


def test_workers_from_outside_are_told_of_and_not_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "rollout-j0123abcd-0"
    house.beat(name)
    assert house.tick().workers == ("rollout-0",)
    house.roll.leave(name)
    house.tick()
    assert house.told == [f"{name} has joined from box", f"{name} has left"]
    house.beat(name)
    house.beat("rollout-0")
    monkeypatch.setattr(scaling, "FORGET_S", -1.0)
    house.tick()
    assert house.members() == ["rollout-0"], "of the run's own, silence is not forgotten"
    house.beat("rollout-17")
    house.tick()
    assert house.members() == ["rollout-0"], "of an earlier driver it is"


def test_at_the_end_those_from_outside_are_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.beat("rollout-j0123abcd-0", version=-1)  # it has not begun
    house.beat("rollout-0")
    monkeypatch.setattr(scaling, "LEFT_S", 1000.0)
    house.scaler.await_guests()
    house.beat("rollout-j0123abcd-1")
    monkeypatch.setattr(scaling, "LEFT_S", 0.3)
    began = time.monotonic()
    house.scaler.await_guests()
    assert time.monotonic() - began >= 0.3


AUTOSCALE = ("cluster.autoscale.max=3", "cluster.autoscale.every_s=1e-6")


def measure(house: House, *, waits: float) -> None:
    """Some steps, once all workers are at work."""
    for name in house.cluster.supervisor.workers():
        house.beat(name)
    house.tick()
    for number in range(1, 4):
        record: dict[str, Any] = step(number, waits=waits)
        house.scaler.add(record)


def test_the_balance_changes_the_number(monkeypatch: pytest.MonkeyPatch, client: Client, run: str) -> None:
    house = House(monkeypatch, client, run, *AUTOSCALE, "staleness.max=0")
    monkeypatch.setattr(house.scaler, "_steps_ready", lambda: 0.0)
    assert house.tick().count == 1
    measure(house, waits=0.9)
    assert house.tick().count == 2 and house.told == ["rollout workers: 1 → 2 (cluster.autoscale)"]
    measure(house, waits=0.9)
    assert house.tick().count == 3
    measure(house, waits=0.9)
    assert house.tick().count == 3
    assert "cluster.autoscale is on" in house.wish(1).trouble


def test_a_balance_asks_in_vain_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, client: Client, run: str
) -> None:
    house = House(monkeypatch, client, run, *AUTOSCALE)
    monkeypatch.setattr(house.scaler, "_steps_ready", lambda: 0.0)
    monkeypatch.setattr(house.cluster.ray, "available_resources", dict, raising=False)
    house.tick()
    measure(house, waits=0.9)
    assert house.tick().count == 1


def test_what_lies_ready_is_what_is_outstanding_less_what_is_not_completed(house: House) -> None:
    assert house.scaler._steps_ready() == 5.0  # staleness.max is 4, and nothing has been issued
