"""What is told of a driver in the background while it starts; the drivers are small programs."""

import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from areal.broker.errors import ArealError
from areal.launch.driver import detach, run

MINIMAL = """
model: {path: models/sort}
dataset: {source: sort}
rewards: {functions: [{name: sort}]}
"""
DRIVER = """
import os, sys, time
from pathlib import Path
from areal.launch.driver.hangup import leave_terminal
from areal.launch.driver.logbook import Logbook
print("before the log", flush=True)
directory = Path(sys.argv[1])
(directory / "logs").mkdir(parents=True, exist_ok=True)
"""
OPENED = """
leave_terminal(directory / "logs" / "driver.log")
logbook = Logbook(directory, run="mine")
print("  0.1 s  starting redis", flush=True)
print("areal: not this", flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "mine"


def start(directory: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(detach, "command", lambda arguments: [sys.executable, "-c", DRIVER + driver, str(directory)])
    return detach.start(Path("mine.yaml"), [], directory)


def test_once_it_is_under_way_one_is_told_how_to_go_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = "time.sleep(0.5); logbook.enter('running'); time.sleep(1); print(os.getsid(0) == os.getpid(), flush=True)"
    assert start(directory, OPENED + ends, monkeypatch) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.startswith(
        "before the log\n  0.1 s  starting redis\n\nmine runs in the background (process "
    )
    for word in ("attach mine ", "status mine ", "logs mine -f", "stop mine "):
        assert f"areal {word}" in out
    assert "not this" not in out
    log, deadline = directory / "logs" / "driver.log", time.monotonic() + 20
    while "True\n" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_overrides_are_on_no_command_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = "print(sys.argv[2:], sys.stdin.read(), flush=True); sys.exit(3)"
    monkeypatch.setattr(
        detach, "command", lambda arguments: [sys.executable, "-c", DRIVER + seen, str(directory), *arguments]
    )
    assert detach.start(Path("mine.yaml"), ["broker.url=redis://:pw@host"], directory) == 3
    assert capfd.readouterr().out == "before the log\n['mine.yaml'] [\"broker.url=redis://:pw@host\"]\n"


@pytest.mark.parametrize("loss", ["stop", "restart"])
def test_the_driver_and_its_guard_take_them_from_standard_input(
    directory: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    Path("mine.yaml").write_text(MINIMAL)
    overrides = ["broker.url=redis://:pw@host", f"cluster.on_driver_loss={loss}"]
    ran: list[tuple[str | None, int | None]] = []
    guarded: list[tuple[list[str], bytes]] = []

    class Guard:
        def __init__(self, driver: list[str], *_: object, handed: bytes, max_restarts: int) -> None:
            guarded.append((driver, handed))

        def run(self) -> int:
            return 0

    monkeypatch.setattr(detach, "Guard", Guard)
    monkeypatch.setattr(run, "execute", lambda config, *_, guard, **__: ran.append((config.broker.url, guard)) or 0)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(overrides)))
    assert detach.main(["mine.yaml"]) == 0
    if loss == "stop":
        assert ran == [("redis://:pw@host", None)] and not guarded
        return
    ((driver, handed),) = guarded
    assert not ran and "pw" not in " ".join(driver) and json.loads(handed) == overrides
    monkeypatch.setattr(sys, "stdin", io.StringIO(handed.decode()))
    assert detach.main(driver[driver.index(detach.GUARDED_BY) :]) == 0
    assert ran == [("redis://:pw@host", os.getpid())]


def test_an_early_error_is_told_with_its_exit_code(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(directory, OPENED + "logbook.end('failed', 2, 'a.b is \\x1bodd'); sys.exit(2)", monkeypatch) == 2
    out, err = capfd.readouterr()
    assert (
        err == f"\nareal: a.b is \\x1bodd\n  the driver's log: {directory}/logs/driver.log\n"
        and "background" not in out
    )


def test_one_that_says_it_itself_before_it_has_a_log_is_left_to(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start(directory, OPENED + "logbook.end('failed', 1, 'of long ago'); sys.exit(1)", monkeypatch)
    capfd.readouterr()
    assert start(directory, "print('areal: it is in use', file=sys.stderr); sys.exit(1)", monkeypatch) == 1
    assert capfd.readouterr() == ("before the log\n", "areal: it is in use\n")


def test_a_run_that_is_done_already_is_done(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(directory, OPENED + "logbook.close(0)", monkeypatch) == 0
    assert "mine is done; areal status mine tells what it came to\n" in capfd.readouterr().out


def test_one_that_is_killed_as_it_starts_is_an_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArealError, match=r"was killed by SIGKILL as it started; its log: .*driver\.log"):
        start(directory, OPENED + "os.kill(os.getpid(), 9)", monkeypatch)


def test_waiting_has_an_end(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detach, "UNDER_WAY_S", 1.0)
    assert start(directory, OPENED + "time.sleep(2)", monkeypatch) == 0
    assert "it is still starting after 1 s" in capfd.readouterr().out


def test_ctrl_c_leaves_it_starting(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(detach, "_await_under_way", interrupted)
    assert start(directory, OPENED, monkeypatch) == 130
    assert "left; it goes on starting: areal attach mine, areal stop mine" in capfd.readouterr().out
