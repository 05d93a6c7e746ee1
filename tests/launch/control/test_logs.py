"""`areal logs`, as a person calls it."""

import os
import threading
import time
from pathlib import Path

import pytest

from areal.launch.driver.logbook import Logbook
from areal.launch.records.rundir import hold

from ..conftest import Areal
from ..stage import make_directory

LEARNER = """\
2026-01-02 10:00:01,000 INFO areal.learner: one
2026-01-02 10:00:03,000 WARNING areal.broker.client: two
Traceback (most recent call last):
  of two
2026-01-02 10:00:05,000 INFO areal.learner: three
"""
ROLLOUT = """\
printed
INFO 01-02 10:00:02 [core.py:1] of vLLM
2026-01-02 10:00:04,000 ERROR areal.rollout: four \x1b[31mred
"""
DRIVER = "  0.1 s  starting redis\n 12.5 s  warning: rollout-0 died\nstep  1/60  reward 0.1\n"


@pytest.fixture
def logs(here: Path) -> Path:
    make_directory(here / "runs" / "mine")
    folder = here / "runs" / "mine" / "logs"
    folder.mkdir()
    (folder / "learner.log").write_text(LEARNER)
    (folder / "rollout-0.log").write_text(ROLLOUT)
    (folder / "driver.log").write_text(DRIVER)
    return folder


def test_roles_are_told_apart_and_come_by_time(areal: Areal, logs: Path) -> None:
    code, out, err = areal("logs", "mine")
    assert (code, err) == (0, "")
    assert [line[11:] for line in out.splitlines() if line.startswith("rollout-0")] == [
        "printed",
        "INFO 01-02 10:00:02 [core.py:1] of vLLM",
        "2026-01-02 10:00:04,000 ERROR areal.rollout: four \\x1b[31mred",
    ]
    words = [line.split()[-1] for line in out.splitlines()]
    assert words == ["printed", "vLLM", "one", "two", "last):", "two", "\\x1b[31mred", "three"]
    assert out.splitlines()[2].startswith("learner    2026")


def test_one_role_is_printed_as_it_is(areal: Areal, logs: Path) -> None:
    assert areal("logs", "mine", "learner")[1] == LEARNER
    assert areal("logs", "mine", "driver")[1] == DRIVER
    assert areal("logs", "mine", "learner", "-n", "1")[1] == LEARNER.splitlines(keepends=True)[-1]
    assert areal("logs", "mine", "learner", "-n", "0")[1] == ""


def test_a_level_takes_what_belongs_to_its_records(areal: Areal, logs: Path) -> None:
    out = areal("logs", "mine", "--level", "warning")[1]
    assert [line.split()[-1] for line in out.splitlines()] == ["two", "last):", "two", "\\x1b[31mred"]
    assert areal("logs", "mine", "driver", "--level", "warning")[1] == " 12.5 s  warning: rollout-0 died\n"
    assert areal("logs", "mine", "learner", "--level", "error")[1] == ""
    assert areal("logs", "mine", "learner", "--level", "warning", "-n", "1")[1] == "  of two\n"


def test_of_a_run_that_failed_early_there_is_the_driver(areal: Areal, logs: Path) -> None:
    for name in ("learner", "rollout-0"):
        (logs / f"{name}.log").unlink()
    assert areal("logs", "mine")[1] == DRIVER


def test_a_role_without_a_log_is_told_which_there_are(areal: Areal, logs: Path, here: Path) -> None:
    code, _, err = areal("logs", "mine", "rollout-7")
    assert code == 1 and "no log of 'rollout-7' in " in err and "those of driver, learner, rollout-0" in err
    make_directory(here / "runs" / "new")
    code, _, err = areal("logs", "new")
    assert code == 1 and "there are no logs in " in err
    assert areal("logs", "nosuch")[0] == 1


def test_what_comes_is_followed_until_the_run_ends(areal: Areal, logs: Path) -> None:
    lock = hold(logs.parent)

    def goes_on() -> None:
        time.sleep(0.5)
        with (logs / "learner.log").open("a") as file:
            file.write("2026-01-02 10:00:06,000 WARNING areal.learner: fi")
            file.flush()
            time.sleep(0.5)
            file.write("ve\n  of five\n2026-01-02 10:00:06,000 INFO areal.learner: six\n")
        (logs / "rollout-1.log").write_text("2026-01-02 10:00:06,000 ERROR areal.rollout: seven\n")
        lock.close()

    thread = threading.Thread(target=goes_on)
    thread.start()
    code, out, _ = areal("logs", "mine", "-f", "-n", "0", "--level", "warning")
    thread.join()
    assert code == 0
    assert sorted(line.split()[-1] for line in out.splitlines()) == ["five", "five", "seven"]
    assert "WARNING areal.learner: five\n" in out


def test_a_guarded_driver_that_is_killed_is_followed_by_the_next(areal: Areal, logs: Path) -> None:
    lock = hold(logs.parent)
    Logbook(logs.parent, run="mine", guard=os.getpid()).enter("running")

    def goes_on() -> None:
        time.sleep(0.5)
        lock.close()
        time.sleep(1.0)
        with hold(logs.parent):
            logbook = Logbook(logs.parent, run="mine", guard=os.getpid())
            with (logs / "learner.log").open("a") as file:
                file.write("2026-01-02 10:00:06,000 INFO areal.learner: of the next\n")
            time.sleep(0.5)
            logbook.close(0)

    thread = threading.Thread(target=goes_on)
    thread.start()
    code, out, _ = areal("logs", "mine", "learner", "-f")
    thread.join()
    assert (code, out) == (0, LEARNER + "2026-01-02 10:00:06,000 INFO areal.learner: of the next\n")


def test_a_guarded_driver_is_not_waited_for_for_ever(areal: Areal, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("areal.launch.control.logs.GUARDED_S", 0.5)
    Logbook(logs.parent, run="mine", guard=os.getpid()).enter("running")
    assert areal("logs", "mine", "learner", "-f") == (0, LEARNER, "")


def test_following_a_run_that_has_ended_ends(areal: Areal, logs: Path) -> None:
    assert areal("logs", "mine", "learner", "-f") == (0, LEARNER, "")
