"""`areal attach` and `areal stop`, as a person calls them, on a driver that runs nothing."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from areal.broker.client import Client, connect
from areal.broker.errors import ArealError, ConfigError
from areal.broker.helm import STOP, STOP_NOW, Driving, Helm
from areal.broker.keys import Keys
from areal.broker.server import EmbeddedRedis
from areal.launch.control import attach, locate, stop, watched
from areal.launch.control.attach import merged
from areal.launch.control.locate import Place
from areal.launch.control.look import look_into
from areal.launch.control.watched import require_under_way, watch

from ..conftest import Areal
from ..driver.test_progress import evaluation, event, step
from ..fake_driver import FakeDriver, until
from ..stage import Stage

SUMMARY = (
    '{"steps": 3, "wall_s": 9, "finished": true, "tokens_generated": 1, "tokens_trained": 1, "weight_updates": 1,'
    ' "groups_trained": 12}'
)


@pytest.fixture
def directory(stage: Stage, here: Path, run: str) -> Path:
    return here / "runs" / run


def later(do: object, after_s: float = 0.5) -> threading.Timer:
    timer = threading.Timer(after_s, do)  # type: ignore[arg-type]
    timer.start()
    return timer


def test_a_run_is_followed_to_its_end(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client) as driver:
        driver.take(step(1, time=time.time() - 3))
        driver.take(event(time.time(), "long past"))

        def goes_on() -> None:
            driver.take(event(time.time(), "rollout-0 died", "warning"))
            driver.bulletin.report({"kind": "step", "time": 1.0})  # by who knows whom
            driver.take(step(2, time=time.time()))
            driver.take(evaluation(2, 0.75, time=time.time()))
            (directory / "summary.json").write_text(SUMMARY)
            driver.end(0)

        later(goes_on)
        code, out, err = areal("attach", run)
    assert (code, err) == (0, "")
    assert "warning: rollout-0 died" in out and "step  2/60" in out and "accuracy 0.750" in out
    assert "step  1/60" not in out and "long past" not in out
    assert f"\n{run}\n" in out and "3 in 0:09" in out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [(ArealError("it \x1bbroke"), 1, "it \\x1bbroke"), (ConfigError("a.b is odd"), 2, "a.b is odd")],
)
def test_a_run_that_fails_gives_its_exit_code(
    areal: Areal, directory: Path, client: Client, run: str, error: Exception, code: int, says: str
) -> None:
    with FakeDriver(directory, client) as driver:
        later(lambda: driver.fail(error))
        seen, out, _ = areal("attach", run)
    assert seen == code and f"error: it has failed (exit code {code}): {says}" in out
    again, out, _ = areal("attach", run)
    assert again == code and says in out, "afterwards too"


def test_a_run_is_followed_by_its_redis_alone(
    areal: Areal, stage: Stage, directory: Path, client: Client, redis_url: str
) -> None:
    with FakeDriver(directory, client) as driver:
        driver.take(step(1, time=time.time()))
        later(lambda: driver.take(step(2, time=time.time())))
        later(lambda: driver.end(130), 1.5)
        code, out, _ = areal("attach", stage.key, "--broker", redis_url)
    assert code == 130 and "step  2/60" in out


def test_a_driver_that_is_killed_is_an_error(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client) as driver:
        later(driver.vanish)
        code, _, err = areal("attach", run)
    assert code == 1 and "its driver (process" in err and "was killed; the same `areal run` resumes it" in err


def test_one_that_is_guarded_is_followed_by_the_next(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client, guard=1) as first:

        def next_one() -> None:
            first.vanish()
            time.sleep(1.0)
            with FakeDriver(directory, client, guard=1) as second:
                second.take(step(7, time=time.time()))
                time.sleep(1.0)
                second.end(0)

        thread = later(next_one)
        code, out, _ = areal("attach", run)
        thread.join()
    assert code == 0 and "another driver has taken the place" in out and "step  7/60" in out


def test_one_that_is_guarded_in_vain_is_an_error(
    areal: Areal, directory: Path, client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "GUARDED_S", 0.5)
    monkeypatch.setattr(watched, "GUARDED_S", 0.5)
    with FakeDriver(directory, client, guard=1) as driver:
        later(driver.vanish)
        code, _, err = areal("attach", run)
    assert code == 1 and "was killed" in err
    assert areal("attach", run)[0] == 1


def test_a_redis_that_is_all_there_is_and_goes_is_an_error(
    areal: Areal, stage: Stage, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "GUARDED_S", 0.5)
    monkeypatch.setattr(locate, "ANSWER_S", 0.5)
    server = EmbeddedRedis(here / "other")
    url = server.start()
    with connect(url) as client:
        driver = Driving("aa", "mine", "running", 1, "box", time.time(), "/gone")
        Helm(client, "mine-1234").tell(driver)
        later(server.stop)
        code, _, err = areal("attach", "mine-1234", "--broker", url)
    assert code == 1 and "did not answer" in err


def test_a_driver_of_which_nothing_tells_any_more_is_an_error(
    stage: Stage, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "GUARDED_S", 1.0)
    driver = Driving("aa", "mine", "running", 1, "box", time.time(), "/gone")
    Helm(client, stage.key).tell(driver)
    with watch(stage.key, Place(broker=redis_url)) as run:
        driving = require_under_way(run)
        client.delete(Keys(stage.key).driver)
        with pytest.raises(
            ArealError, match="its Redis has lost what its driver said there, and for 1 s none has said"
        ):
            attach.follow(run, driving, deadline=time.monotonic() + 60)


def test_a_redis_that_comes_back_empty_is_told_anew(
    areal: Areal, stage: Stage, directory: Path, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, timers = attach._Viewer.read, []
    with FakeDriver(directory, client) as driver:

        def emptied_once(*given: Any, **named: Any) -> Any:
            if not timers:
                client.delete(Keys(stage.key).driver)
                timers.append(later(lambda: driver.end(0), 2.5))
            return read(*given, **named)

        monkeypatch.setattr(attach._Viewer, "read", emptied_once)
        assert areal("attach", stage.key, "--broker", redis_url)[0] == 0


def test_ctrl_c_leaves_the_run_going(
    areal: Areal, directory: Path, client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeDriver(directory, client) as driver:

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(attach._Viewer, "read", interrupted)
        code, out, _ = areal("attach", run)
        assert code == 130 and f"left; {run} goes on: areal attach {run}, areal stop {run}" in out
        assert driver.asked is None and look_into(directory).alive


def test_what_has_been_is_told_once(run: str) -> None:
    first, second, looked = step(1, time=1.0), step(2, time=2.0), evaluation(2, 0.5, time=2.1)
    assert merged([first, second], [second, event(1.5, "x"), looked]) == [first, second, looked]


# stop


def test_a_run_is_asked_to_stop_and_waited_for(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client) as driver:
        code, _, err = areal("stop", run)
        assert (code, err) == (0, "") and driver.asked == STOP
    assert not look_into(directory).held
    code, _, err = areal("stop", run)
    assert code == 1 and f"{run} is not under way: it was stopped" in err


def test_it_is_asked_again_when_redis_forgets(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client, heeds=False) as driver:

        def forgets() -> None:
            until(lambda: driver.asked)
            client.delete(f"areal:{{{driver.key}}}:asked")
            driver.asked = None
            until(lambda: driver.asked)
            driver.end(130)

        later(forgets, 0.0)
        assert areal("stop", run)[0] == 0


def test_from_a_machine_that_has_only_its_redis(
    areal: Areal, stage: Stage, directory: Path, client: Client, redis_url: str
) -> None:
    with FakeDriver(directory, client) as driver:
        assert areal("stop", stage.key, "--broker", redis_url)[0] == 0
        assert driver.asked == STOP


def test_a_run_that_was_done_first_is_a_run_that_has_ended(
    areal: Areal, directory: Path, client: Client, run: str
) -> None:
    with FakeDriver(directory, client, heeds=False) as driver:
        later(lambda: driver.end(0))
        assert areal("stop", run)[0] == 0


def test_a_run_that_fails_meanwhile_did_not_do_as_asked(
    areal: Areal, directory: Path, client: Client, run: str
) -> None:
    with FakeDriver(directory, client, heeds=False) as driver:
        later(lambda: driver.fail(ArealError("it broke")))
        code, out, err = areal("stop", run)
    assert code == 1 and "it broke" in out and f"{run} ended, but not as it was asked to (exit code 1)" in err


UNDRAINED = "not drained within 60 s (cluster.drain_s)"


@pytest.mark.parametrize("how", [[], ["--now"]])
def test_a_run_that_was_killed_as_it_drained_did_not_do_as_asked(
    areal: Areal, directory: Path, client: Client, run: str, how: list[str]
) -> None:
    with FakeDriver(directory, client, heeds=False) as driver:

        def killed() -> None:
            until(lambda: driver.asked)
            driver.logbook.end("stopped", 130, UNDRAINED)
            driver.vanish()

        later(killed, 0.0)
        code, out, err = areal("stop", run, *how)
    assert f"error: it was stopped (exit code 130): {UNDRAINED}" in out
    if how:  # at once is without a checkpoint
        assert (code, err) == (0, "")
    else:
        assert code == 1 and f"{run} ended, but not as it was asked to (exit code 130: {UNDRAINED})" in err
    assert UNDRAINED in areal("status", run)[1]


def test_waiting_has_an_end(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client, heeds=False):
        code, _, err = areal("stop", run, "--timeout", "1")
    assert code == 1 and "has not ended within 1 s (--timeout): wait longer, or stop it at once with --now" in err


def test_now_is_now(areal: Areal, directory: Path, client: Client, run: str) -> None:
    with FakeDriver(directory, client) as driver:
        assert areal("stop", run, "--now")[0] == 0 and driver.asked == STOP_NOW


HOLDER = """
import sys, time
from pathlib import Path
from areal.launch.driver.logbook import Logbook
from areal.launch.records.rundir import hold
directory = Path(sys.argv[1])
lock = hold(directory)
Logbook(directory, run=directory.name).enter("running")
print("held", flush=True)
time.sleep(60)
"""


def test_a_driver_that_hears_nothing_is_killed(
    areal: Areal, directory: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "NOW_S", 1.0)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, directory], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        code, out, _ = areal("stop", run, "--now")
        assert code == 0 and f"{run} did not heed and was killed" in out and process.wait(5) == -9
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_one_on_another_machine_is_not_killed_from_here(
    areal: Areal, directory: Path, client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "NOW_S", 1.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with FakeDriver(directory, client, heeds=False) as driver:
        monkeypatch.setattr(socket, "gethostname", lambda: "here")
        code, _, err = areal("stop", run, "--now")
        assert code == 1 and "on elsewhere)" in err and "kill that process on that machine" in err
        driver.vanish()


def test_a_run_that_nobody_drove_is_not_stopped(areal: Areal, directory: Path, run: str, client: Client) -> None:
    code, _, err = areal("stop", run)
    assert code == 1 and f"{run} is not under way: no driver of it is known" in err
    code, _, err = areal("stop", "nosuch")
    assert code == 1 and "there is no run 'nosuch'" in err
    with FakeDriver(directory, client) as driver:
        driver.vanish()
    code, _, err = areal("stop", run)
    assert code == 1 and "is not under way: its driver (process" in err and "was killed" in err


def test_what_was_asked_of_one_driver_is_not_heard_by_the_next(
    areal: Areal, directory: Path, client: Client, run: str
) -> None:
    with FakeDriver(directory, client):
        assert areal("stop", run)[0] == 0
    with FakeDriver(directory, client) as second:
        time.sleep(0.3)
        assert second.asked is None
        heard = Helm(client, second.key).heard()
        assert heard is not None and not heard[0].ended
