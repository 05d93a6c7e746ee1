"""A sandbox begins with walls that hold, and ends with the process that started it, no sooner."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import pytest

from areal.broker.errors import ConfigError
from areal.rewards.footprint import MARK, kill_marked
from areal.rewards.programs.sandbox import sandbox
from areal.rewards.programs.sandbox.confine import FIRST_USER, Limits, prctl
from areal.rewards.programs.sandbox.examiner import CALLS
from areal.rewards.programs.sandbox.inside import NAMESPACES, NONE
from areal.rewards.programs.sandbox.values import loads
from areal.rewards.programs.sandbox.walls import ANY, Walls, user_of

STARTER = """
import sys
from areal.rewards.programs.sandbox import sandbox
from areal.rewards.programs.sandbox.confine import Limits
from areal.rewards.programs.sandbox.walls import Walls
sandbox._BOOT = sys.argv[2]
program = "import time\\ndef f():\\n    time.sleep(600)"
sandbox.run(Walls(sys.argv[1]), Limits(30.0, 256, 4, 64), [program], "calls", ("f", [()]))
"""
LAUNCHER = """
import ctypes
from areal.rewards.programs.sandbox import confine, namespaces
confine.end_with_parent()
of_users = namespaces.unshare(confine.FIRST_USER)
found = ctypes.c_int()
confine.libc().prctl(2, ctypes.byref(found), 0, 0, 0)  # PR_GET_PDEATHSIG
print(of_users, found.value)
"""
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21

Survivors = Callable[[], list[psutil.Process]]


def sleeping(kind: str, processes: int, survivors: Survivors, **options: Any) -> "subprocess.Popen[bytes]":
    """What has started a sandbox whose program sleeps, so many processes in all."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER, kind, sandbox._BOOT], **options)
    while len(survivors()) - 1 < processes:  # it has the mark in its command line itself
        assert starter.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    return starter


def assert_gone(survivors: Survivors) -> None:
    deadline = time.monotonic() + 2.0
    while left := survivors():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def ended(survivors: Survivors, starter: "subprocess.Popen[bytes]", end: Callable[[], object]) -> None:
    try:
        end()
        starter.wait(5.0)
        assert_gone(survivors)
    finally:
        for process in survivors():
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root changes its user")
def test_no_sandbox_has_the_user_of_another_process_or_of_the_one_before() -> None:
    longest_pid = 2**22
    users = {user_of(pid, sandbox) for pid in (1, 2, 4711, longest_pid) for sandbox in range(200)}
    assert len(users) == 4 * 200 and min(users) > FIRST_USER and max(users) < 2**32 - 1


def test_walls_that_fail_twice_on_a_busy_machine_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["there is no sandbox: [Errno 11] Resource temporarily unavailable"] * 2)
    monkeypatch.setattr(sandbox, "_reason_against", lambda walls: next(said, None))
    assert sandbox.find_walls(NAMESPACES) == Walls(NAMESPACES)


def test_walls_whose_program_is_not_here_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TRIAL_PAUSES_S", (0.0,))
    monkeypatch.setattr(Walls, "command", lambda *_: ["a-bwrap-that-is-not-here"])
    with pytest.raises(ConfigError, match=r"bubblewrap: .*a-bwrap-that-is-not-here.* Mend it"):
        sandbox.find_walls(ANY)


def test_a_sandbox_ends_with_the_process_that_started_it(walls: Walls, survivors: Survivors) -> None:
    starter = sleeping(walls.kind, 4, survivors)
    ended(survivors, starter, starter.kill)


def test_without_walls_a_program_ends_with_the_process_that_started_it(survivors: Survivors) -> None:
    starter = sleeping(NONE, 3, survivors)
    ended(survivors, starter, starter.kill)


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root changes its user")
def test_a_launcher_that_has_to_change_its_user_still_ends_with_its_parent() -> None:
    """As root of a container that may not mount."""
    launcher = subprocess.run(
        [sys.executable, "-c", LAUNCHER],
        capture_output=True,
        check=False,
        text=True,
        preexec_fn=lambda: prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN),
    )
    if "unshare with a namespace of users" in launcher.stderr:
        pytest.skip(launcher.stderr)
    assert launcher.stdout == f"True {signal.SIGKILL}\n", launcher.stderr


def test_the_pool_finds_a_sandbox_by_the_mark_of_its_reward_process(walls: Walls, survivors: Survivors) -> None:
    mark = uuid.uuid4().hex
    starter = sleeping(walls.kind, 4, survivors, env={**os.environ, MARK: mark})
    assert any(marked(each, mark) for each in survivors() if each.pid != starter.pid)
    ended(survivors, starter, lambda: kill_marked(mark))


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except psutil.Error:
        return False


def test_no_program_has_the_mark_in_its_environment(walls: Walls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "4711")
    assert found(walls) == ["/tmp", None, None]
    assert found(Walls(NONE)) == ["/tmp", None, None]


def found(walls: Walls) -> Sequence[Any]:
    """What a program has of its home, and of the mark as Python has it and as C has it."""
    source = f"""
import ctypes, os
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
def f():
    return [os.environ.get("HOME"), os.environ.get({MARK!r}), getenv({MARK.encode()!r})]
"""
    (answer,) = sandbox.run(walls, Limits(5.0, 256, 4, 64), [source], CALLS, ("f", [()]))
    holds, value, *_ = loads(answer)
    assert holds
    return list(value)


def test_many_answers_do_not_end_a_sandbox(walls: Walls) -> None:
    """Each that is read tells the sandbox that it still has a reader, one such word in the middle of another."""
    limits, calls = Limits(30.0, 512, 16, 1024), [[number] for number in range(60)]
    for _ in range(30):
        assert len(sandbox.run(walls, limits, ["def f(x): return x"], CALLS, ("f", calls))) == 60
