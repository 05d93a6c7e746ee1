"""`areal status` (or `areal runs`) and `areal purge`, as a person calls them."""

import io
import json
import os
import re
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from areal.broker.bulletin import DRAIN, Bulletin
from areal.broker.client import Client, connect
from areal.broker.errors import ArealError
from areal.broker.helm import DRAINING
from areal.broker.keys import Keys
from areal.broker.rollcall import Member
from areal.broker.runs import list_runs
from areal.broker.server import EmbeddedRedis, find_live
from areal.launch.driver.logbook import Logbook
from areal.launch.records.rundir import RunDirectory, hold, is_held

from ..conftest import Areal
from ..driver.test_progress import step
from ..fake_driver import FakeDriver, until
from ..records.test_letters import NASTY
from ..stage import MEMBER, Stage, make_directory


def table(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def state_of(areal: Areal, run: str) -> str:
    code, out, err = areal("runs", run, "--json")
    assert code == 0, err
    state: str = json.loads(out)["state"]
    return state


class Terminal(io.StringIO):
    """Someone at the keyboard."""

    def isatty(self) -> bool:
        return True


def test_runs_are_listed_with_what_they_hold(stage: Stage, areal: Areal, here: Path, run: str) -> None:
    stage.bury("one", "two")
    stage.bury("three", lane="eval")
    stage.beat()
    stage.was_heard(60, replace(MEMBER, name="rollout-1"))
    make_directory(here / "runs" / "old")
    (here / "runs" / "old" / "summary.json").write_text('{"version": 1200, "dead_letters": 4}')
    make_directory(here / "runs" / "odd")
    (here / "runs" / "odd" / "summary.json").write_text("{")
    (here / "runs" / "no run").mkdir()
    code, out, _ = areal("runs")
    head, odd, old, mine, _, note = table(out)
    keys = len(stage.client.keys(f"*{{{stage.key}}}*"))  # type: ignore[arg-type]
    assert code == 0
    columns = ["step", "reward", "staleness", "prompts", "groups", "dead", "keys", "roles", "where"]
    assert head == ["run", "state", *columns]
    assert odd == ["odd", "unknown", *"–––––––", "–", "runs/odd/"]
    assert old == ["old", "stopped", *"–––––", "4", "–", "–", "runs/old/"]
    where = mine.pop()
    assert mine == [run, "running", *"–––", "0", "0", "3", str(keys), "1, 1 silent"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", where)
    assert note[0].startswith("odd: runs/odd/summary.json is not valid JSON")
    records = {record["name"]: record for record in map(json.loads, areal("runs", "--json")[1].splitlines())}
    assert records["old"] | {"name": ""} == {
        "name": "",
        "state": "stopped",
        "where": "runs/old/",
        "step": None,
        "steps": None,
        "reward": None,
        "staleness": None,
        "driver": None,
        "version": 1200,
        "keys": None,
        "dead": 4,
        "lanes": {},
        "roll": [],
        "note": "",
    }
    assert records[run]["lanes"]["train"] == {
        "issued": 2, "prompts": 0, "groups": 0, "dead": 2, "again": 0, "dropped": 0
    }  # fmt: skip
    assert [(member["name"], member["silent"]) for member in records[run]["roll"]] == [
        ("rollout-0", False),
        ("rollout-1", True),
    ]


def test_no_runs_are_none(areal: Areal, here: Path, redis_url: str) -> None:
    code, out, err = areal("runs")
    assert (code, out) == (1, "") and "there is no folder runs: name the one" in err
    (here / "runs").mkdir()
    assert areal("runs") == (0, "there are no runs in runs/\n", "")
    assert areal("runs", "--json") == (0, "", "")
    server = EmbeddedRedis(here / "empty")
    url = server.start()
    code, out, _ = areal("runs", "--broker", url)
    assert code == 0 and re.fullmatch(r"there are no runs on redis at 127.0.0.1:\d+\n", out)
    server.stop()


def test_a_redis_lists_all_that_it_has(stage: Stage, areal: Areal, redis_url: str, client: Client) -> None:
    nasty = Stage(client, f"{NASTY}-{stage.key}")
    code, out, err = areal("runs", "--broker", redis_url)
    assert (code, err) == (0, "") and stage.key in out
    assert "\\x1b]0;owned" in out and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out)
    names = [json.loads(line)["name"] for line in areal("runs", "--broker", redis_url, "--json")[1].splitlines()]
    assert set(names) >= {stage.key, nasty.key} and names == sorted(names)
    code, out, err = areal("purge", nasty.key, "--broker", redis_url, "--yes")
    assert (code, err) == (0, "") and "\x1b" not in out and nasty.key not in list_runs(client)


def test_the_state_of_a_run(stage: Stage, areal: Areal, run: str) -> None:
    assert state_of(areal, run) == "stopped"
    stage.was_heard(1.0)  # its lease time is 2 s
    assert state_of(areal, run) == "running"
    stage.was_heard(3.0)
    assert state_of(areal, run) == "silent"
    stage.beat(replace(MEMBER, name="learner", role="learner"))
    assert state_of(areal, run) == "running"


def test_the_state_of_a_run_with_a_redis_of_its_own(areal: Areal, here: Path) -> None:
    key = make_directory(here / "runs" / "own")
    server = EmbeddedRedis(here / "runs" / "own" / "redis")
    with connect(server.start()) as client:
        stage = Stage(client, key)
        assert state_of(areal, "own") == "starting"
        assert table(areal("runs")[1])[1][:2] == ["own", "starting"]
        stage.beat()
        assert state_of(areal, "own") == "running"
        server.stop()
        assert state_of(areal, "own") == "silent", "its server went, and it with it"
        assert table(areal("runs")[1])[1][:2] == ["own", "stopped"]
        assert find_live(here / "runs" / "own" / "redis") is None
    with connect(server.start()) as client:
        client.delete(Keys(key).roll)
        Bulletin(client, key).keep_order(DRAIN)
        assert state_of(areal, "own") == "stopped"
    server.stop()


def test_a_run_is_shown_with_its_lanes_and_its_roll(stage: Stage, areal: Areal, run: str) -> None:
    stage.bury("one")
    stage.beat(Member("learner", "learner", NASTY, 12, 0.0, time.time() - 200, 1234))
    stage.was_heard(150, replace(MEMBER, version=-1))
    code, out, err = areal("runs", run)
    assert (code, err) == (0, "")
    assert out.startswith(f"{run}  running\n  version    –\n  redis      127.0.0.1:")
    assert f"  key        {stage.key}\n" in out and f"  directory  runs/{run}/\n" in out
    rows = table(out)
    assert ["lane", "issued", "prompts", "groups", "dead", "again", "dropped"] in rows
    assert ["train", "1", "0", "0", "1", "0", "0"] in rows and ["eval", *"000000"] in rows
    head = rows.index(["name", "role", "host", "pid", "version", "heard", "active"])
    learner, rollout = rows[head + 1 : head + 3]
    assert learner[:2] == ["learner", "learner"] and "\\x1b]0;owned" in learner[2] and "\x1b" not in out
    assert learner[3:5] == ["12", "1,234"] and re.fullmatch(r"0\.\d s ago", learner[5]) and learner[6] == "3 min ago"
    assert rollout[:5] == ["rollout-0", "rollout", "box", "77", "–"]
    assert rollout[5] == "2 min ago" and rollout[6].endswith(" d ago") and rollout[7] == "silent"
    assert out.endswith(f"\n1 dead letter: areal dead list {run}\n")
    record = json.loads(areal("runs", run, "--json")[1])
    assert record["key"] == stage.key and record["redis"] == record["where"] and len(record["roll"]) == 2


def test_a_member_that_tells_nonsense_is_shown_all_the_same(stage: Stage, areal: Areal, run: str) -> None:
    for name, nonsense in (("a", float("nan")), ("b", float("inf")), ("c", -1e300)):
        stage.beat(Member(name, NASTY, "", -(10**30), nonsense, nonsense, 10**30))
    code, out, err = areal("runs", run)
    assert (code, err) == (0, "") and "\x1b" not in out and "– ago" in out
    assert [member["active_at"] for member in json.loads(areal("runs", run, "--json")[1])["roll"]] == [
        None,
        None,
        -1e300,
    ]


def test_a_run_that_nobody_is_at_work_for_is_shown(stage: Stage, areal: Areal, run: str) -> None:
    out = areal("runs", run)[1]
    assert "nobody is at work for it" in out and "dead letter" not in out


def test_the_version_is_the_newest_that_was_announced(stage: Stage, areal: Areal, run: str) -> None:
    weights: Any = stage.client
    for version in ("3", "17", "x"):
        weights.xadd(Keys(stage.key).weights, {"version": version, "name": "a", "digest": "1"})
    assert json.loads(areal("runs", run, "--json")[1])["version"] == 17


def test_servers_out_of_reach_are_told_once_each(
    stage: Stage, areal: Areal, here: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("areal.launch.control.runs.ANSWER_S", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
        for index in range(6):
            make_directory(here / "runs" / f"away-{index}", url=url)
        began = time.monotonic()
        code, out, _ = areal("runs")
        assert code == 0 and time.monotonic() - began < 3
    states = {row[0]: row[1] for row in table(out)[1:8]}
    assert states == {run: "stopped"} | {f"away-{index}": "unknown" for index in range(6)}
    assert out.count("did not answer PING") == 6


def test_a_purge_leaves_no_key_and_the_directory_as_it_is(
    stage: Stage, areal: Areal, here: Path, run: str, client: Client
) -> None:
    other = Stage(client, f"{stage.key}0")
    stage.bury("one")
    stage.bury_group("two")
    before = sorted(path.name for path in (here / "runs" / run).iterdir())
    keys = len(client.keys(f"*{{{stage.key}}}*"))  # type: ignore[arg-type]
    assert areal("purge", run, "--yes") == (0, f"{keys} keys of {run} deleted; runs/{run}/ is left as it is\n", "")
    assert stage.key not in list_runs(client) and other.key in list_runs(client)
    assert sorted(path.name for path in (here / "runs" / run).iterdir() if path.name != ".lock") == before
    code, out, _ = areal("purge", run, "--yes")
    assert code == 0 and out.startswith(f"{run} has no keys on redis at 127.0.0.1:")
    assert table(areal("runs")[1])[1][:2] == [run, "stopped"]


def test_a_run_that_is_at_work_is_not_purged(stage: Stage, areal: Areal, run: str) -> None:
    stage.was_heard(1.0)
    code, out, err = areal("purge", run, "--yes")
    assert (code, out) == (1, "")
    assert f"{run} is not purged, as it is at work: rollout-0 (process 77 on box) was heard within the last 2 s." in err
    stage.beat(Member("learner", "learner", "bo\x1bx", 78, 0, 0, 0))
    err = areal("purge", run, "--yes")[2]
    assert "learner (process 78 on bo\\x1bx), rollout-0 (process 77 on box) were heard" in err
    assert stage.client.exists(Keys(stage.key).epoch)
    for name in ("learner", "rollout-0"):
        stage.was_heard(3.0, replace(MEMBER, name=name))
    assert areal("purge", run, "--yes")[0] == 0


def test_a_run_that_has_just_been_started_is_not_purged(stage: Stage, areal: Areal, here: Path, run: str) -> None:
    with RunDirectory(here / "runs" / run, config=(here / "runs" / run / "config.yaml").read_text()):
        code, out, err = areal("purge", run, "--yes")
    assert (code, out) == (1, "") and f"is in use by process {os.getpid()}" in err
    assert stage.client.exists(Keys(stage.key).epoch)


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_a_person_is_asked(
    stage: Stage, areal: Areal, run: str, answer: str, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, out, _ = areal("purge", run)
    assert re.search(rf"Delete the 1 key of {run} on redis at 127\.0\.0\.1:\d+\? \[y/N\] ", out)
    assert (code, "nothing was deleted" in out) == (0 if gone else 1, not gone)
    assert bool(stage.client.exists(Keys(stage.key).epoch)) != gone


def test_where_nobody_can_be_asked_nothing_is_deleted(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = areal("purge", run)
    assert (code, out) == (1, "") and "no terminal to ask on, and --yes was not given" in err
    assert stage.client.exists(Keys(stage.key).epoch)


def test_the_purge_of_a_stopped_runs_own_redis_is_durable(areal: Areal, here: Path) -> None:
    key = make_directory(here / "runs" / "own")
    server = EmbeddedRedis(here / "runs" / "own" / "redis")
    with connect(server.start()) as client:
        Stage(client, key).bury("one")
    server.stop()
    code, out, _ = areal("purge", "own", "--yes")
    assert code == 0 and out.endswith(" keys of own deleted; runs/own/ is left as it is\n")
    assert areal("purge", "own", "--yes")[1].startswith("own has no keys on redis at")


def test_a_key_is_purged_on_the_redis_that_is_named(stage: Stage, areal: Areal, redis_url: str) -> None:
    code, out, _ = areal("purge", stage.key, "--broker", redis_url, "--yes")
    assert (code, out) == (0, f"1 key of {stage.key} deleted; the run directory is left as it is\n")


def test_a_run_stands_as_its_driver_says(
    stage: Stage, areal: Areal, here: Path, run: str, client: Client, redis_url: str
) -> None:
    with FakeDriver(here / "runs" / run, client, guard=os.getpid()) as driver:
        driver.take(step(3, time=time.time(), reward=0.25))
        stage.beat()
        code, out, err = areal("status", run)
        assert (code, err) == (0, "") and out.startswith(
            f"{run}  running\n  step       3 of 60, reward 0.250, staleness 1.200\n"
            f"  driver     process {os.getpid()} on {socket.gethostname()}, started 0."
        )
        assert f" ago, guarded by process {os.getpid()}\n  version " in out
        assert table(areal("runs")[1])[1][:5] == [run, "running", "3/60", "0.250", "1.200"]
        record = json.loads(areal("status", run, "--json")[1])
        assert (record["step"], record["steps"], record["reward"], record["staleness"]) == (3, 60, 0.25, 1.2)
        assert record["driver"]["pid"] == os.getpid() and record["state"] == record["driver"]["state"]
        until(lambda: json.loads(areal("status", stage.key, "--broker", redis_url, "--json")[1])["step"] == 3)
        driver.logbook.enter(DRAINING)
        assert state_of(areal, run) == "draining"
        driver.vanish()
        assert state_of(areal, run) == "gone"
        out = areal("status", run)[1]
        assert "\n  driver" not in out and "its driver (process" in out and "was killed; its guard" in out
    for error, state in ((None, "done"), (ArealError("it broke"), "failed")):
        with FakeDriver(here / "runs" / run, client) as driver:
            driver.fail(error) if error else driver.end(0)
            until(lambda: not is_held(here / "runs" / run))
        assert state_of(areal, run) == state
    assert "it has failed (exit code 1): it broke" in areal("status", run)[1]


def test_a_driver_that_is_gone_is_not_shown_as_running(
    stage: Stage, areal: Areal, here: Path, run: str, client: Client
) -> None:
    with FakeDriver(here / "runs" / run, client) as driver:
        driver.vanish()
    lock = hold(here / "runs" / run)
    lock.seek(0)
    lock.truncate()
    lock.write("process 1 on elsewhere")  # the next one, which has said nothing yet
    lock.flush()
    out = areal("status", run)[1]
    assert out.startswith(f"{run}  starting\n") and "\n  driver" not in out
    assert "is gone, and another process holds its run directory" in out
    assert table(areal("runs")[1])[1][1] == "starting"
    lock.close()
    assert state_of(areal, run) == "gone"


def test_a_run_that_is_driven_on_is_shown_without_its_redis(areal: Areal, here: Path) -> None:
    directory = here / "runs" / "own"
    make_directory(directory)
    (directory / "redis").mkdir()
    (directory / "redis" / "appendonly.aof").touch()
    Logbook(directory, run="own", guard=os.getpid())
    assert state_of(areal, "own") == "gone"
    assert not (directory / "redis" / "redis.log").exists(), "its next driver starts it"


def test_a_run_that_has_just_been_started_is_shown_without_its_redis(areal: Areal, here: Path) -> None:
    directory = here / "runs" / "own"
    make_directory(directory)
    with RunDirectory(directory, config=(directory / "config.yaml").read_text()):
        Logbook(directory, run="own")
        code, out, err = areal("status", "own")
        assert (code, err) == (0, "") and out.startswith("own  starting\n") and "nobody is at work" in out
        assert json.loads(areal("status", "own", "--json")[1])["state"] == "starting"
    assert not (directory / "redis").exists()


@pytest.mark.parametrize("command", ["status", "purge"])
def test_help_teaches_by_examples(areal: Areal, command: str) -> None:
    code, out, _ = areal(command, "--help")
    assert code == 0 and f"areal {command} quickstart" in out and "--broker redis://host:6379/0" in out
