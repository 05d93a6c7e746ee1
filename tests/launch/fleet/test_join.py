"""`areal join`, as a person calls it; the workers are light processes that obey orders and do nothing."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client, connect
from areal.broker.fleet import JOINED, Fleet
from areal.broker.keys import Keys
from areal.broker.rollcall import Member, RollCall
from areal.broker.server import EmbeddedRedis
from areal.launch.config import RunConfig, load_run_config
from areal.launch.control import locate
from areal.launch.driver.run import SIGNALS
from areal.launch.fleet import join
from areal.launch.fleet.offer import write_offer

from ..conftest import Areal

CONFIG = Path(__file__).parents[3] / "configs" / "rlcm_digits_compress.yaml"
WORKER = """
import json, os, sys, time
from areal.broker.bulletin import RUN, Bulletin
from areal.broker.client import connect
from areal.broker.rollcall import Member, RollCall
from areal.broker.server import EmbeddedRedis
tell, spec = int(sys.argv[-1]), json.loads(sys.stdin.read())
name, client = spec["name"], connect(spec["broker_url"])
print(spec["shared"], spec["index"])
{begins}
roll, bulletin = RollCall(client, spec["run_key"], silent_after_s=5), Bulletin(client, spec["run_key"])
while bulletin.ordered_of(name) {stays}:
    roll.beat(Member(name, "rollout", "here", os.getpid(), time.time(), time.time(), 0))
    time.sleep(0.05)
roll.leave(name)
"""


class Meadow:
    """A run that workers may join, and those on its roll."""

    def __init__(self, client: Client, run: str, here: Path) -> None:
        self.client, self.key, self.here = client, run, here
        self.fleet, self.bulletin = Fleet(client, run), Bulletin(client, run)
        self.offer()
        (self.config.path / "weights").mkdir(parents=True)

    def offer(self, *overrides: str) -> None:
        folder = f"directory={self.here / 'elsewhere'}"
        self.config: RunConfig = load_run_config(CONFIG, [f"run={self.key}", folder, *overrides])
        self.fleet.keep_offer(write_offer(self.config))

    def members(self) -> list[Member]:
        return [heard.member for heard in RollCall(self.client, self.key, silent_after_s=5).heard()]

    def await_members(self, count: int) -> list[Member]:
        deadline = time.monotonic() + 20
        while len(members := self.members()) != count:
            assert time.monotonic() < deadline, members
            time.sleep(0.02)
        return members


@pytest.fixture
def meadow(client: Client, run: str, here: Path) -> Meadow:
    return Meadow(client, run, here)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the processes of roles begin with this, and work until they hear another word."""

    python = sys.executable

    def make(begins: str = "", stays: str = "== RUN") -> None:
        script = tmp_path / "role"
        script.write_text(f"#!{python}\n" + WORKER.format(begins=begins, stays=stays))
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))

    make()
    return make


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Done in a thread; what it raises is raised here."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)
            for _ in range(3):
                interrupt()
                time.sleep(0.1)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    assert not failures, failures


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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
    assert not meadow.client.keys(Keys(meadow.key).leave("*").replace("{", "\\{")), "no order is left behind"


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
    monkeypatch.setattr(join, "HURRY_S", 1.0)
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
    monkeypatch.setattr(join, "BACKOFF_S", 0.01)
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


# What is wrong before anything is started


def refusal(areal: Areal, url: str, run: str, *arguments: str, code: int) -> str:
    got, out, err = areal("join", url, run, *arguments)
    assert got == code and out == "", (got, out, err)
    return err


def test_a_run_that_cannot_be_joined_says_why(
    meadow: Meadow, areal: Areal, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "ANSWER_S", 1.0)
    assert "there is no run 'nosuch' on redis" in refusal(areal, redis_url, "nosuch", code=1)
    assert "did not answer" in refusal(areal, "redis://127.0.0.1:1/0", meadow.key, code=1)
    assert "broker.url is not of the form" in refusal(areal, "http://127.0.0.1/", meadow.key, code=2)
    meadow.bulletin.keep_order(DRAIN)
    assert "is ending, or has ended" in refusal(areal, redis_url, meadow.key, code=1)
    client.delete(Keys(meadow.key).offer)
    assert "has not offered its configuration yet" in refusal(areal, redis_url, meadow.key, code=1)
    client.set(Keys(meadow.key).offer, b"{")
    meadow.bulletin.keep_order(RUN)
    assert "is no configuration" in refusal(areal, redis_url, meadow.key, code=2)
    client.set(Keys(meadow.key).offer, b" " * (2**20 + 1))
    assert "holds more than" in refusal(areal, redis_url, meadow.key, code=2)


def test_what_does_not_fit_this_host_says_what_to_do(
    meadow: Meadow, areal: Areal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(areal, redis_url, meadow.key, "model.path=/nosuch", code=2)
    assert "there is no model '/nosuch'" in said and "model.path=…" in said
    monkeypatch.setattr(join, "LOOK_S", 0.01)
    said = refusal(areal, redis_url, meadow.key, "directory=/nosuch", code=2)
    assert f"shared in /nosuch/{meadow.key}/weights, which cannot be seen from here" in said
    assert "broker.weights=redis" in said
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "RAY_ADDRESS names no cluster" in refusal(areal, redis_url, meadow.key, "rewards.where=ray", code=2)
    meadow.offer("denoising.consistency_lora=/nosuch/lora")
    said = refusal(areal, redis_url, meadow.key, code=2)
    assert "denoising.consistency_lora is /nosuch/lora, and there is no such folder here" in said


def test_weights_of_another_directory_are_not_taken_for_the_runs(
    meadow: Meadow, areal: Areal, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that path is here, and it is not the one that the learner writes to."""
    monkeypatch.setattr(join, "LOOK_S", 0.01)
    client.xadd(Keys(meadow.key).weights, {"version": "3", "name": "00000003-17", "digest": "1"})
    assert "cannot be seen from here" in refusal(areal, redis_url, meadow.key, code=2)


def test_a_learner_that_hands_out_weights_must_be_reached(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str, client: Client
) -> None:
    texts = load_run_config(CONFIG.with_name("quickstart.yaml"), [f"run={meadow.key}", "broker.weights=direct"])
    meadow.fleet.keep_offer(write_offer(texts))
    with socket.create_server(("127.0.0.1", 0)) as learner:
        depot = {"epoch": 1, "host": "127.0.0.1", "port": learner.getsockname()[1], "token": "x" * 22}
        client.set(Keys(meadow.key).depot, json.dumps(depot))

        def act() -> None:
            meadow.await_members(1)
            meadow.bulletin.keep_order(DRAIN)

        with meanwhile(act):
            code, _, _ = areal("join", redis_url, meadow.key, "directory=/nosuch")
        assert code == 0
    meadow.bulletin.keep_order(RUN)
    said = refusal(areal, redis_url, meadow.key, code=2)
    assert f"hands out its weights at 127.0.0.1, port {depot['port']}, which cannot be reached from here" in said
    assert "broker.weights=redis" in said


def test_weights_through_redis_want_no_directory(
    meadow: Meadow, workers: Callable[..., None], areal: Areal, redis_url: str
) -> None:
    meadow.offer(
        "broker.weights=redis", "cluster.env.rollout={MINE_ALONE: 2, PATH: /nosuch}", "cluster.pass_env=[MY_KEY]"
    )

    def act() -> None:
        meadow.await_members(1)
        meadow.bulletin.keep_order(DRAIN)

    with meanwhile(act):
        code, out, _ = areal("join", redis_url, meadow.key, "directory=/nosuch")
    assert code == 0 and "have MINE_ALONE, MY_KEY in their environment" in out


def test_there_is_one_role_to_join_as(areal: Areal) -> None:
    for arguments in (("--role", "learner"), ("--workers", "0")):
        assert areal("join", "redis://x/0", "run", *arguments)[0] == 2
