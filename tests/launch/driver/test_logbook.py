"""What a driver leaves behind of itself, however it ends."""

from pathlib import Path

import pytest

from areal.broker.client import Client
from areal.broker.errors import ArealError, ConfigError
from areal.broker.helm import DONE, DRAINING, FAILED, RUNNING, STARTING, STOP, STOPPED, Helm
from areal.launch.driver.logbook import Logbook, read_driving, say_killed

from ..fake_driver import until


def state_in(directory: Path) -> tuple[str, int | None, str]:
    driving = read_driving(directory)
    assert driving is not None
    return driving.state, driving.exit_code, driving.error


def test_a_driver_is_written_down_from_its_start_to_its_end(tmp_path: Path) -> None:
    assert read_driving(tmp_path) is None
    logbook = Logbook(tmp_path, run="mine")
    assert state_in(tmp_path) == (STARTING, None, "")
    logbook.begin()
    assert state_in(tmp_path) == (RUNNING, None, "")
    logbook.enter(DRAINING)
    logbook.begin()
    assert state_in(tmp_path) == (DRAINING, None, "")
    logbook.close(130)
    logbook.close(0)
    assert state_in(tmp_path) == (STOPPED, 130, "")
    second = Logbook(tmp_path, run="mine")
    assert second.invocation != logbook.invocation and state_in(tmp_path)[0] == STARTING
    second.close(0)
    assert state_in(tmp_path) == (DONE, 0, "")


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (KeyboardInterrupt(), (STOPPED, 130, "")),
        (ConfigError("a.b is odd"), (FAILED, 2, "a.b is odd")),
        (ArealError("it broke"), (FAILED, 1, "it broke")),
        (ValueError(), (FAILED, 1, "ValueError")),
    ],
)
def test_an_exception_is_an_end(tmp_path: Path, error: BaseException, left: tuple[str, int, str]) -> None:
    logbook = Logbook(tmp_path, run="mine")
    with pytest.raises(type(error)), logbook.until_end():
        raise error
    assert state_in(tmp_path) == left


def test_the_helm_hears_of_it_too(tmp_path: Path, client: Client, run: str) -> None:
    helm, logbook = Helm(client, run), Logbook(tmp_path, run="mine")
    assert logbook.asked() is None
    with pytest.raises(ArealError), logbook.until_end(), logbook.until_end(helm):
        assert logbook.asked() is None
        until(helm.heard)
        logbook.note({"step": 3, "steps": 60, "reward_mean": 0.5, "staleness_mean": 1.25})
        logbook.enter(RUNNING)
        helm.ask(STOP, logbook.invocation)
        assert logbook.asked() == STOP
        until(lambda: (said := helm.heard()) is not None and said[0].state == RUNNING)
        heard = helm.heard()
        assert heard is not None and heard[0] == read_driving(tmp_path)
        assert (heard[0].step, heard[0].steps, heard[0].reward, heard[0].staleness) == (3, 60, 0.5, 1.25)
        raise ArealError("it broke")
    heard = helm.heard()
    assert heard is not None and (heard[0].state, heard[0].error) == (FAILED, "it broke")


def test_a_logbook_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logbook = Logbook(tmp_path / "gone", run="mine")
    logbook.close(0)
    assert "cannot be written" in caplog.text


def test_a_guard_speaks_for_a_driver_that_was_killed(tmp_path: Path) -> None:
    say_killed(tmp_path, "killed")
    logbook = Logbook(tmp_path, run="mine")
    say_killed(tmp_path, "killed")
    assert state_in(tmp_path) == (FAILED, 1, "killed")
    logbook.close(0)
    say_killed(tmp_path, "again")
    assert state_in(tmp_path) == (DONE, 0, "")


@pytest.mark.parametrize("odd", ["", "{", "[]", '{"pid": 1}'])
def test_what_is_no_logbook_is_none(tmp_path: Path, odd: str) -> None:
    (tmp_path / "driver.json").write_text(odd)
    assert read_driving(tmp_path) is None
