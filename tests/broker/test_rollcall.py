import json
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, connect
from areal.broker.keys import CONSUMERS, LANES, Keys, LaneKeys
from areal.broker.lane import Lane
from areal.broker.rollcall import Activity, Member, Presence, RollCall
from areal.broker.tickets import Lease, Tickets

from .samples import BROKER, LEASE_S, group, lease, prompts, tickets_of

SILENT_AFTER_S = 0.3
MEMBER = b'12 {"name": "odd", "role": "", "host": "", "pid": 12, "started_at": 0, "active_at": 0, "version": 0}'


@pytest.fixture
def roll(client: Client, run: str) -> RollCall:
    return RollCall(client, run, silent_after_s=SILENT_AFTER_S)


def member(name: str, version: int = 3) -> Member:
    return Member(name, "rollout", "host", 12, 1.5, 2.5, version)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def test_who_was_heard_is_on_the_roll_as_described(roll: RollCall) -> None:
    assert roll.heard() == []
    for name in ("rollout-1", "learner", "rollout-0"):
        roll.beat(member(name))
    roll.beat(member("rollout-0", version=4))
    heard = roll.heard()
    assert [each.member for each in heard] == [member("learner"), member("rollout-0", 4), member("rollout-1")]
    assert all(each.ago_s < SILENT_AFTER_S and not each.silent for each in heard)


def test_who_stops_is_silent_and_who_goes_on_is_not(roll: RollCall) -> None:
    roll.beat(member("stopped"))
    deadline = time.monotonic() + 2 * SILENT_AFTER_S
    while time.monotonic() < deadline:
        roll.beat(member("going"))
        time.sleep(0.02)
    going, stopped = roll.heard()
    assert (going.silent, stopped.silent) == (False, True)
    assert 2 * SILENT_AFTER_S <= stopped.ago_s < 2 * SILENT_AFTER_S + 1
    roll.beat(member("stopped"))
    assert not any(each.silent for each in roll.heard())


def test_who_leaves_is_struck_off(roll: RollCall) -> None:
    roll.beat(member("a"))
    roll.leave("a")
    roll.leave("never there")
    assert roll.heard() == []
    for name in ("a", "b", "c"):
        roll.beat(member(name))
    roll.leave("a", "c")
    assert [each.member.name for each in roll.heard()] == ["b"]


def consumers(client: Client, run: str, lane: str = "train") -> set[str]:
    found: list[dict[str, bytes]] = client.xinfo_consumers(LaneKeys(run, lane).prompts, CONSUMERS)  # type: ignore[assignment]
    return {each["name"].decode() for each in found}


def test_who_leaves_is_no_consumer_of_any_lane_any_more(client: Client, roll: RollCall, run: str) -> None:
    for lane in LANES:
        Tickets(client, run, lane, BROKER)
        for name in ("a", "b"):
            roll.beat(member(name))
            client.xgroup_createconsumer(LaneKeys(run, lane).prompts, CONSUMERS, name)
    assert [consumers(client, run, lane) for lane in LANES] == [{"a", "b"}, {"a", "b"}]
    roll.leave("a")
    assert [consumers(client, run, lane) for lane in LANES] == [{"b"}, {"b"}]


def test_who_holds_leases_stays_a_consumer_until_they_have_moved(client: Client, roll: RollCall, run: str) -> None:
    epoch, lane = Bulletin(client, run).lead(), Lane(client, run, "train")
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    lease(tickets_of(client, run), "a", 1)
    roll.beat(member("a"))
    roll.leave("a")
    assert consumers(client, run) == {"a"} and lane.depth().prompts == 1
    time.sleep(1.5 * LEASE_S)
    other = tickets_of(client, run)
    (taken,) = lease(other, "b", 1)
    assert other.complete(taken, group(0)), "nothing of what it held was lost"
    roll.beat(member("b"))
    roll.leave()
    assert consumers(client, run) == {"b"}


def test_one_that_waits_for_prompts_gets_them_though_it_is_no_consumer_any_more(
    client: Client, redis_url: str, roll: RollCall, run: str
) -> None:
    """As where its presence was late; it is one again as soon as it gets something."""
    epoch, lane = Bulletin(client, run).lead(), Lane(client, run, "train")
    with connect(redis_url) as own:
        tickets, got = tickets_of(own, run), list[Lease]()
        client.xgroup_createconsumer(LaneKeys(run, "train").prompts, CONSUMERS, "a")
        thread = threading.Thread(target=lambda: got.extend(lease(tickets, "a", 1)))
        thread.start()
        until(lambda: client.info("clients")["blocked_clients"] > 0)  # type: ignore[index]
        roll.leave()
        lane.issue(prompts(0, 1), after=0, epoch=epoch)
        thread.join()
    assert [each.prompt.id for each in got] == [0] and consumers(client, run) == {"a"}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"12",
        b"x {}",
        b"12 {}",
        b"12 []",
        b"12 null",
        b'12 {"name": 1}',
        b"12 " + b"[" * 4000,
        b"\xff\xfe",
        MEMBER.replace(b"12", b"1e999"),
        b"9" * 2000 + b" {}",
    ],
)
def test_what_is_no_member_is_left_out(client: Client, roll: RollCall, run: str, value: bytes) -> None:
    roll.beat(member("a"))
    client.hset(Keys(run).roll, "odd", value)  # type: ignore[arg-type]
    assert [each.member.name for each in roll.heard()] == ["a"]


def test_a_presence_tells_of_its_process_and_leaves_when_it_ended_well(roll: RollCall) -> None:
    began = time.time()
    with Presence(roll, name="rollout-0", role="rollout", every_s=0.02) as presence:
        until(lambda: bool(roll.heard()))
        (heard,) = roll.heard()
        assert (heard.member.name, heard.member.role) == ("rollout-0", "rollout")
        assert (heard.member.host, heard.member.pid) == (socket.gethostname(), os.getpid())
        assert heard.member.version == -1 and began - 1 < heard.member.started_at < time.time()
        presence.activity.mark(7)
        until(lambda: roll.heard()[0].member.version == 7)
        assert roll.heard()[0].member.active_at >= heard.member.active_at
    assert roll.heard() == []


def test_a_presence_that_ended_badly_stays_to_be_seen(roll: RollCall) -> None:
    with pytest.raises(RuntimeError), Presence(roll, name="a", role="rollout", every_s=0.02):
        until(lambda: bool(roll.heard()))
        raise RuntimeError("broken")
    until(lambda: roll.heard()[0].silent)


def test_a_roll_call_that_fails_is_tried_again(roll: RollCall, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError("away"), OSError("away")])
    beat = roll.beat

    def sometimes(member: Member) -> None:
        for failure in failures:
            raise failure
        beat(member)

    monkeypatch.setattr(roll, "beat", sometimes)
    with Presence(roll, name="a", role="rollout", every_s=0.01):
        until(lambda: bool(roll.heard()))


def test_members_of_different_runs_do_not_see_each_other(client: Client, roll: RollCall, run: str) -> None:
    roll.beat(member("a"))
    assert RollCall(client, run + "-other", silent_after_s=1).heard() == []


def test_an_activity_is_of_its_last_mark() -> None:
    activity = Activity()
    before = activity.at
    activity.mark(5)
    assert activity.version == 5 and activity.at >= before


def test_what_is_kept_is_json_behind_the_servers_time(client: Client, roll: RollCall, run: str) -> None:
    roll.beat(member("a"))
    at_ms, _, described = bytes(client.hget(Keys(run).roll, "a")).partition(b" ")  # type: ignore[arg-type]
    assert abs(int(at_ms) / 1000 - time.time()) < 5
    assert json.loads(described)["pid"] == 12
