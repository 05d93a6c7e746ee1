"""Workers that were started by `areal join`, until they have left; they are light processes that do nothing."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from areal.broker.bulletin import DRAIN, RUN
from areal.broker.client import Client, connect
from areal.broker.fleet import JOINED
from areal.broker.helm import DONE, FAILED, STOPPED
from areal.broker.keys import Keys
from areal.broker.server import EmbeddedRedis
from areal.launch.cluster import restarts
from areal.launch.driver.interrupts import SIGNALS
from areal.launch.fleet import guests, vigil

from ..conftest import Areal
from .meadow import Meadow, interrupt, meanwhile


def test_workers_join_and_stay_until_the_run_ends(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, here: Path
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[str] = []

    def act() -> None:
        seen.extend(member.name for member in meadow.await_members(2))
        time.sleep(0.6)
        meadow.bulletin.keep_order(DRAIN)

    with meanwhile(act):
        code, out, err = areal("join", redis_url, meadow.key, "--workers", "2", "rollout.threads=2")
    assert (code, err) == (0, "") and out.count("is at work") == 2 and f"{meadow.key} has ended" in out
    assert all(JOINED.fullmatch(name) for name in seen) and meadow.members() == []
    logs = [here / "joined" / meadow.key / "logs" / f"{name}.log" for name in seen]
    said = [log.read_text().split() for log in logs]
    assert {path for path, _ in said} == {str(meadow.config.path)}
    assert len({int(index) for _, index in said if int(index) >= 1000}) == 2
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_ctrl_c_lets_them_leave_and_the_run_goes_on(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    def act() -> None:
        meadow.await_members(1)
        interrupt()

    with meanwhile(act):
        code, out, err = areal("join", redis_url, meadow.key)
    assert (code, err) == (130, "") and "leaving: what is under way is finished first" in out
    assert f"{meadow.key} goes on without them" in out
    assert meadow.members() == [] and meadow.bulletin.ordered() == RUN
    assert not orders_left(meadow)


def test_a_second_ctrl_c_has_them_hand_back_what_they_hold(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    workers(stays="!= 'drain'")

    def act() -> None:
        meadow.await_members(1)
        interrupt()
        time.sleep(1.5)
        assert len(meadow.members()) == 1, "it finishes"
        interrupt()

    with meanwhile(act):
        code, out, _ = areal("join", redis_url, meadow.key)
    assert code == 130 and "handing back what is under way" in out and meadow.members() == []


def test_a_third_ctrl_c_kills_them(meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str) -> None:
    workers(stays="!= ''")
    pids: list[int] = []

    def act() -> None:
        pids.extend(member.pid for member in meadow.await_members(2))
        for _ in range(3):
            time.sleep(0.5)
            interrupt()

    with meanwhile(act):
        assert areal("join", redis_url, meadow.key, "--workers", "2")[0] == 130
    assert meadow.members() == [] and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_those_that_do_not_leave_are_hurried_and_then_killed(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "HURRY_S", 1.0)
    workers(stays="!= ''")
    orders: list[str] = []

    def act() -> None:
        (member,) = meadow.await_members(1)
        interrupt()
        while meadow.members():
            orders.append(meadow.bulletin.ordered_of(member.name))
            time.sleep(0.02)

    with meanwhile(act):
        code, out, _ = areal("join", redis_url, meadow.key, "cluster.drain_s=0.8")
    assert code == 130 and "the workers are killed" in out
    assert list(dict.fromkeys(orders))[:3] == ["run", "leave", "drain"]


def test_one_that_is_killed_is_started_again(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    def act() -> None:
        (first,) = meadow.await_members(1)
        os.kill(first.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while meadow.members()[0].pid == first.pid:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        meadow.bulletin.keep_order(DRAIN)

    with meanwhile(act):
        code, out, err = areal("join", redis_url, meadow.key)
    assert (code, err) == (0, "")
    assert "died (its process ended by signal SIGKILL without a word); starting it again in 1 s" in out


def test_one_that_keeps_dying_is_given_up(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "BACKOFF_S", 0.01)
    workers(begins="os._exit(3)")
    code, out, err = areal("join", redis_url, meadow.key, "cluster.max_restarts=2")
    assert code == 1 and out.count("starting it again") == 2
    assert "died 3 times in a row: its process ended by exit code 3" in err and "its log: " in err


def test_what_no_other_try_can_mend_is_told_at_once(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    workers(begins="""os.write(tell, b'{"kind": "ConfigError", "text": "no such reward"}'); sys.exit(1)""")
    code, out, err = areal("join", redis_url, meadow.key)
    assert code == 2 and "no such reward" in err and "again" not in out


def test_a_redis_that_is_gone_for_good_ends_them(
    client: Client, run: str, workers: Callable[..., None], areal: Areal, here: Path
) -> None:
    """As when the driver of a run with a Redis of its own is killed."""
    server = EmbeddedRedis(here / "redis")
    url = server.start()
    with connect(url) as own:
        meadow = Meadow(own, run, here)
        pids: list[int] = []

        def act() -> None:
            pids.extend(member.pid for member in meadow.await_members(1))
            server.stop()

        with meanwhile(act):
            code, _, err = areal("join", url, run, "broker.timeout_s=0.5")
    assert code == 1 and "did not answer" in err and url.split(":")[2].partition("@")[0] not in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("state", "told"), [(FAILED, "it has failed (exit code 1): boom"), (STOPPED, "was stopped"), (DONE, "is done")]
)
def test_they_hand_back_what_they_hold_when_the_driver_has_ended(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, state: str, told: str
) -> None:
    """Also where it has left no order behind."""
    workers(stays="!= 'drain'")

    def act() -> None:
        meadow.await_members(2)
        meadow.drive(state, error="boom" if state == FAILED else "")

    with meanwhile(act):
        code, out, err = areal("join", redis_url, meadow.key, "--workers", "2")
    assert (code, err) == (0, "") and f"nobody drives {meadow.key} any more: " in out and told in out
    assert f"{meadow.key} has ended" in out and "killed" not in out
    assert meadow.members() == [] and meadow.bulletin.ordered() == RUN and not orders_left(meadow)


def test_they_wait_a_while_for_a_driver_that_is_silent(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "SILENT_AFTER_S", 0.5)
    monkeypatch.setattr(vigil, "GIVEN_UP_S", 2.5)
    code, out, err = areal("join", redis_url, meadow.key)
    assert (code, err) == (
        0,
        "",
    ) and "the run's driver is silent; the workers wait for it, or another in its place" in out
    assert f"nobody drives {meadow.key} any more: no driver has been heard for " in out
    assert (
        "its driver (process 12 on box) was killed; the same `areal run` resumes it" in out and meadow.members() == []
    )


def test_one_that_takes_long_to_fail_is_given_up_too(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lived for long enough, and done nothing."""
    monkeypatch.setattr(restarts, "BACKOFF_S", 0.01)
    monkeypatch.setattr(restarts, "STEADY_S", 0.0)
    workers(begins="os._exit(3)")
    code, _, err = areal("join", redis_url, meadow.key, "cluster.max_restarts=2")
    assert code == 1 and "died 3 times in a row" in err


def test_one_that_has_worked_begins_with_a_clean_count(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "BACKOFF_S", 0.01)
    monkeypatch.setattr(restarts, "STEADY_S", 0.0)
    pids: set[int] = set()

    def act() -> None:
        deadline = time.monotonic() + 20
        while len(pids) < 4:
            assert time.monotonic() < deadline
            for member in meadow.members():
                if member.pid not in pids:
                    pids.add(member.pid)
                    os.kill(member.pid, signal.SIGKILL)
            time.sleep(0.02)
        meadow.drive(DONE)

    with meanwhile(act):
        code, out, err = areal("join", redis_url, meadow.key, "cluster.max_restarts=1")
    assert (code, err) == (0, "") and out.count("starting it again in 0.01 s") >= 3


def orders_left(meadow: Meadow) -> list[bytes]:
    found: list[bytes] = meadow.client.keys(Keys(meadow.key).leave("*").replace("{", "\\{"))  # type: ignore[assignment]
    return found
