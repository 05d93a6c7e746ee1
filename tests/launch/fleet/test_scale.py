"""`areal scale`, as a person calls it; a thread answers in the driver's place."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from areal.broker.bulletin import DRAIN, Bulletin
from areal.broker.client import Client, connect
from areal.broker.errors import BrokerError
from areal.broker.fleet import Fleet, Roster, Wish
from areal.broker.helm import RUNNING, STARTING
from areal.broker.server import EmbeddedRedis
from areal.launch.control import locate
from areal.launch.driver.logbook import read_driving
from areal.launch.fleet import scale

from ..conftest import Areal
from ..fake_driver import FakeDriver, until
from ..stage import MEMBER, Stage, make_directory


def names(count: int) -> tuple[str, ...]:
    return tuple(f"rollout-{index}" for index in range(count))


@contextmanager
def driving(
    stage: Stage, answer: Callable[[Wish, int], Roster | None], *, state: str = RUNNING, guard: int | None = None
) -> Iterator[FakeDriver]:
    """A driver that answers every wish, if it does, the looks at it counted from 0."""
    directory = Path("runs") / stage.key.rpartition("-")[0]
    fleet, over = Fleet(stage.client, stage.key), threading.Event()

    def drive() -> None:
        with suppress(BrokerError):
            answer_all()

    def answer_all() -> None:
        looks = 0
        while not over.wait(0.05):
            if wish := fleet.wished():
                if roster := answer(wish, looks):
                    fleet.keep_roster(roster)
                looks += 1

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        with FakeDriver(directory, stage.client, state=state, guard=guard) as driver:
            until(lambda: (said := read_driving(directory)) is not None and said.state == state)
            yield driver
    finally:
        over.set()
        thread.join()


def beat(stage: Stage, count: int, *, version: int = 3) -> None:
    for name in names(count):
        stage.beat(replace(MEMBER, name=name, version=version))


def test_it_returns_when_all_are_at_work(stage: Stage, areal: Areal, run: str) -> None:
    beat(stage, 1)
    beat_at = 10

    def answer(wish: Wish, looks: int) -> Roster:
        beat(stage, 3 if looks > beat_at else 1)
        return Roster(wish.count, names(wish.count), (), wish.id)

    with driving(stage, answer):
        code, out, err = areal("scale", run, "rollout=3")
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()  # a look may fall between two beats
    assert "1 of 3 rollout workers at work; starting rollout-1, rollout-2" in first
    assert f"{run} has 3 rollout workers at work, after" in last


def test_it_waits_for_those_that_leave(stage: Stage, areal: Areal, run: str) -> None:
    beat(stage, 3)

    def answer(wish: Wish, looks: int) -> Roster:
        return Roster(wish.count, names(1), ("rollout-2",) if looks < 10 else (), wish.id)

    with driving(stage, answer):
        code, out, _ = areal("scale", run, "rollout=1")
    assert code == 0 and "1 of 1 rollout worker at work; leaving rollout-2" in out
    assert "has 1 rollout worker at work" in out


def test_one_without_weights_is_not_at_work_yet(stage: Stage, areal: Areal, run: str) -> None:
    beat(stage, 2, version=-1)
    with driving(stage, lambda wish, looks: Roster(2, names(2), (), wish.id)):
        code, _, err = areal("scale", run, "rollout=2", "--timeout", "1")
    assert code == 1 and f"{run} has not come to 2 rollout workers within 1 s (0 of 2 rollout workers at work" in err
    assert f"areal runs {run}" in err


def test_it_need_not_wait(stage: Stage, areal: Areal, run: str) -> None:
    with driving(stage, lambda wish, looks: Roster(wish.count, (), (), wish.id)):
        assert areal("scale", run, "rollout=9", "--no-wait") == (0, f"{run} is to have 9 rollout workers\n", "")
    wish = Fleet(stage.client, stage.key).wished()
    assert wish is not None and wish.count == 9


def test_what_the_driver_refuses_is_told(stage: Stage, areal: Areal, run: str) -> None:
    with driving(stage, lambda wish, looks: Roster(1, names(1), (), wish.id, "there is no room for 7 more")):
        code, out, err = areal("scale", run, "rollout=8")
    assert (code, out) == (1, "")
    assert f"{run} stays at 1 rollout worker, and 8 were wanted: there is no room for 7 more" in err


def test_who_was_overruled_is_told(stage: Stage, areal: Areal, run: str) -> None:
    with driving(stage, lambda wish, looks: Roster(5, (), (), wish.id if looks < 5 else "another")):
        code, _, err = areal("scale", run, "rollout=2")
    assert code == 1 and f"somebody else has scaled {run} meanwhile, to 5 rollout workers" in err


def test_a_run_that_nobody_drives_is_not_scaled(stage: Stage, areal: Areal, run: str) -> None:
    Fleet(stage.client, stage.key).keep_roster(Roster(1, names(1), (), "earlier"))
    instead = "Start it with rollout.workers=2"
    code, out, err = areal("scale", run, "rollout=2")
    assert (code, out) == (1, "") and f"{run} is not under way: no driver of it is known. {instead}" in err
    for leave, told in (
        (lambda driver: driver.vanish(), "was killed; the same `areal run` resumes it"),
        (lambda driver: driver.end(130), "it was stopped"),
        (lambda driver: driver.fail(RuntimeError("boom")), "it has failed (exit code 1): boom"),
    ):
        with driving(stage, lambda wish, looks: None) as driver:
            leave(driver)
        code, out, err = areal("scale", run, "rollout=2")
        assert (code, out) == (1, "") and f"{run} is not under way: " in err and told in err and instead in err
    assert Fleet(stage.client, stage.key).wished() is None, "the next to start it is not surprised"


def test_of_a_run_elsewhere_its_redis_tells_whether_it_is_driven(
    stage: Stage, areal: Areal, run: str, redis_url: str, tmp_path: Path
) -> None:
    elsewhere = ("--broker", redis_url, "--directory", str(tmp_path / "none"))
    (tmp_path / "none").mkdir()

    def answer(wish: Wish, looks: int) -> Roster:
        beat(stage, 2)
        return Roster(2, names(2), (), wish.id)

    with driving(stage, answer) as driver:
        os.rename(tmp_path / "runs", tmp_path / "moved")
        code, out, err = areal("scale", stage.key, "rollout=2", *elsewhere)
        assert (code, err) == (0, "") and "has 2 rollout workers at work" in out
        driver.end(0)
    code, _, err = areal("scale", stage.key, "rollout=2", *elsewhere)
    assert code == 1 and "is not under way: it is done" in err


def test_a_driver_that_does_not_answer_is_told(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "ANSWERED_S", 0.5)
    with driving(stage, lambda wish, looks: None):
        code, _, err = areal("scale", run, "rollout=2")
    assert code == 1 and f"the driver of {run} has not answered within 0.5 s" in err and f"areal logs {run}" in err
    assert Fleet(stage.client, stage.key).wished() is None


def test_a_driver_that_is_starting_is_waited_for(
    stage: Stage, areal: Areal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than one that has started may take; what its predecessor was told does not matter."""
    monkeypatch.setattr(scale, "ANSWERED_S", 0.3)
    Bulletin(stage.client, stage.key).keep_order(DRAIN)

    def answer(wish: Wish, looks: int) -> Roster | None:
        beat(stage, 2)
        return Roster(2, names(2), (), wish.id) if looks > 20 else None

    with driving(stage, answer, state=STARTING):
        code, out, err = areal("scale", run, "rollout=2")
    assert (code, err) == (0, "") and f"the driver of {run} is starting, and answers then" in out.splitlines()[0]
    assert f"{run} has 2 rollout workers at work" in out


def test_one_that_starts_for_too_long_is_not_waited_for(stage: Stage, areal: Areal, run: str) -> None:
    with driving(stage, lambda wish, looks: None, state=STARTING):
        code, out, err = areal("scale", run, "rollout=2", "--timeout", "1", "--no-wait")
    assert code == 1 and "is starting, and answers then" in out
    assert f"the driver of {run} has not started within 1 s (--timeout), and the wish for 2 rollout workers" in err
    assert Fleet(stage.client, stage.key).wished() is None


@pytest.mark.parametrize("state", [STARTING, RUNNING])
def test_a_driver_that_dies_meanwhile_is_told_at_once(stage: Stage, areal: Areal, run: str, state: str) -> None:
    with driving(stage, lambda wish, looks: None, state=state) as driver:
        timer = threading.Timer(0.5, driver.vanish)
        timer.start()
        code, _, err = areal("scale", run, "rollout=2")
        timer.join()
    assert code == 1 and f"{run} is not under way: its driver" in err and "was killed" in err


def test_a_driver_that_dies_once_it_has_answered_is_told_at_once(stage: Stage, areal: Areal, run: str) -> None:
    for guard, told in ((None, "was killed"), (7, "is gone, and the next begins with the rollout.workers of its")):
        with driving(stage, lambda wish, looks: Roster(2, names(2), (), wish.id), guard=guard) as driver:
            timer = threading.Timer(0.5, driver.vanish)
            timer.start()
            code, out, err = areal("scale", run, "rollout=2")
            timer.join()
        assert code == 1 and "0 of 2 rollout workers at work" in out and told in err


def test_of_a_run_with_a_guard_the_next_driver_answers(stage: Stage, areal: Areal, run: str) -> None:
    with driving(stage, lambda wish, looks: None, guard=7) as first:
        first.vanish()

    def answer(wish: Wish, looks: int) -> Roster | None:
        beat(stage, 2)
        return Roster(2, names(2), (), wish.id) if looks > 10 else None

    over = threading.Event()

    def drive_on() -> None:
        with driving(stage, answer, guard=7):
            over.wait(20)

    timer = threading.Timer(0.5, drive_on)
    timer.start()
    code, out, err = areal("scale", run, "rollout=2")
    over.set()
    timer.join()
    assert (code, err) == (0, "") and "is starting, and answers then" in out


def test_a_run_that_is_ending_is_not_scaled(stage: Stage, areal: Areal, run: str, client: Client) -> None:
    with driving(stage, lambda wish, looks: None):
        Bulletin(client, stage.key).keep_order(DRAIN)
        code, _, err = areal("scale", run, "rollout=2")
    assert code == 1 and f"{run} is ending: start it again with rollout.workers=2" in err


def test_a_run_with_a_redis_of_its_own_that_is_stopped_is_not_scaled(areal: Areal, here: Path) -> None:
    make_directory(here / "runs" / "own")
    server = EmbeddedRedis(here / "runs" / "own" / "redis")
    server.start()
    server.stop()
    code, _, err = areal("scale", "own", "rollout=2")
    assert code == 1 and "own is not under way: start it with `areal run`, and rollout.workers=2" in err


def test_a_redis_that_ends_with_its_driver_is_not_what_is_told(
    areal: Areal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "ANSWER_S", 0.5)
    key = make_directory(here / "runs" / "own")
    server = EmbeddedRedis(here / "runs" / "own" / "redis")
    with (
        connect(server.start(), timeout_s=0.5) as client,
        driving(Stage(client, key), lambda wish, looks: None) as driver,
    ):

        def end() -> None:
            driver.vanish()
            server.stop()

        timer = threading.Timer(0.5, end)
        timer.start()
        code, _, err = areal("scale", "own", "rollout=2")
        timer.join()
    assert code == 1 and "own is not under way: its driver" in err and "was killed" in err


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (["rollout=0"], "'rollout=0': a whole number from 1 to 10000 is wanted"),
        (["rollout=-1"], "'rollout=-1': a whole number"),
        (["rollout="], "'rollout=': a whole number"),
        (["rollout"], "'rollout': a whole number"),
        (["rollout=two"], "'rollout=two': a whole number"),
        (["rollout=1e9"], "'rollout=1e9': a whole number"),
        (["rollout=" + 30 * "9"], "a whole number from 1"),
        (["rollout=٣"], "a whole number from 1"),
        (["learner=2"], "start it with learner.ranks=N"),
        (["rewards=2"], "'rewards=2' is of no role that can be scaled; wanted: rollout=N"),
        (["rollout=2", "rollout=3"], "one size is wanted, as in rollout=4, not rollout=2 rollout=3"),
    ],
)
def test_a_size_that_is_none_is_exit_code_2(areal: Areal, sizes: list[str], says: str) -> None:
    code, _, err = areal("scale", "nosuch", *sizes)
    assert code == 2 and says in err


def test_there_is_no_such_run(areal: Areal, here: Path) -> None:
    (here / "runs").mkdir()
    code, _, err = areal("scale", "nosuch", "rollout=2")
    assert code == 1 and "there is no run 'nosuch'" in err
