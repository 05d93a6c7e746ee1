"""Who starts a driver again, and who does not; the drivers are small programs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from areal.launch.driver.logbook import Logbook, read_driving

from ..fake_driver import until

GUARD = """
import os, sys
from pathlib import Path
from areal.launch.cluster import restarts
from areal.launch.driver import guard
restarts.BACKOFF_S = 0.01
from areal.launch.cli import guarded
directory, driver = Path(sys.argv[1]), sys.argv[2]
made = guard.Guard([sys.executable, "-c", driver, str(directory)], os.environ, directory, handed=b"[1]", max_restarts=2)
sys.exit(guarded(made.run))
"""
DRIVER = """
import os, sys, time
from pathlib import Path
from areal.launch.driver.logbook import Logbook
directory = Path(sys.argv[1])
logbook = Logbook(directory, run="mine", guard=os.getppid())
lives = directory / "lives"
lives.write_text(lives.read_text() + f"{os.getpid()}\\n" if lives.exists() else f"{os.getpid()}\\n")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def start(directory: Path, driver: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-c", GUARD, str(directory), DRIVER + driver]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lives(directory: Path) -> list[int]:
    file = directory / "lives"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_driver_that_ends_by_itself_is_not_started_again(directory: Path, code: int) -> None:
    process = start(directory, f"print('seen', flush=True)\nsys.exit({code})")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "seen\n") and len(lives(directory)) == 1


def test_one_that_is_killed_is_started_again(directory: Path) -> None:
    process = start(directory, "time.sleep(60) if len(lives.read_text().split()) < 2 else sys.exit(130)")
    until(lambda: lives(directory))
    os.kill(lives(directory)[0], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 130 and len(lives(directory)) == 2
    assert "the driver was killed by SIGKILL" in (directory / "logs" / "driver.log").read_text()


def test_one_that_is_ended_without_a_word_is_started_again(directory: Path) -> None:
    process = start(directory, "os._exit(1 if len(lives.read_text().split()) < 2 else 0)")  # as Ray does
    process.communicate(timeout=60)
    assert process.returncode == 0 and len(lives(directory)) == 2
    assert (
        "the driver was killed by an exit with code 1, not its own" in (directory / "logs" / "driver.log").read_text()
    )


def test_one_that_fails_is_not_started_again(directory: Path) -> None:
    process = start(directory, "logbook.end('failed', 1, 'it broke')\nsys.exit(1)")
    process.communicate(timeout=60)
    driving = read_driving(directory)
    assert process.returncode == 1 and len(lives(directory)) == 1
    assert driving is not None and driving.error == "it broke"


def test_one_that_fails_before_it_has_a_logbook_is_not_started_again(directory: Path) -> None:
    Logbook(directory, run="mine", guard=1)  # of an earlier one, which was killed
    program = [sys.executable, "-c", GUARD, str(directory), "import sys; print('odd', flush=True); sys.exit(1)"]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "odd\n")


def test_each_driver_reads_what_it_is_handed(directory: Path) -> None:
    process = start(
        directory,
        "(directory / f'handed-{os.getpid()}').write_text(sys.stdin.read())\n"
        "os.kill(os.getpid(), 9) if len(lives.read_text().split()) < 2 else sys.exit(0)",
    )
    process.communicate(timeout=60)
    assert [file.read_text() for file in directory.glob("handed-*")] == ["[1]", "[1]"]


def test_one_that_is_killed_again_and_again_is_given_up(directory: Path) -> None:
    process = start(directory, "os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    driving = read_driving(directory)
    assert process.returncode == 1 and len(lives(directory)) == 3
    assert driving is not None and driving.exit_code == 1 and driving.guard == process.pid
    assert driving.error.startswith("the driver was killed 3 times in a row, the last time by SIGKILL")
    assert "areal: the driver was killed 3 times" in (directory / "logs" / "driver.log").read_text()


def test_a_signal_is_passed_on_and_ends_the_guard_too(directory: Path) -> None:
    process = start(directory, "time.sleep(60)")
    until(lambda: lives(directory))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1 and len(lives(directory)) == 1
