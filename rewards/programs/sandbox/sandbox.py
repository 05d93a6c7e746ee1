"""One run of a program behind walls: the side of the reward process, which alone judges."""

import marshal
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from ....broker.errors import RewardError
from ...footprint import MARK
from .confine import Limits
from .examiner import CALLS
from .inside import NAMESPACES
from .pipes import Ended, frame, read_frame_until
from .seccomp import program_filter
from .values import dumps, loads
from .walls import Walls, candidates, refused, user_of

INSIDE = ("values", "pipes", "confine", "namespaces", "program", "spawner", "examiner", "inside")
"""The modules that are sent along, each after those that it imports."""

TRIAL_PAUSES_S = (0.0, 0.2, 1.0)
"""Before each trial of walls, until they are said not to hold: a machine with much to do may fail one."""
START_TIMEOUT_S = 3.0
GRACE_S = 0.3
KILL_TIMEOUT_S = 5.0
MAX_ERROR_CHARS = 500
_sandboxes = count()
_BOOT = f"""
import sys, os, marshal
os.environ.pop({MARK!r}, None)
module = type(sys)
package = sys.modules["sandbox"] = module("sandbox")
package.__path__ = []
for name, code in marshal.loads(os.read(0, int(os.read(0, 8)))):
    each = sys.modules["sandbox." + name] = module("sandbox." + name)
    each.__package__ = "sandbox"
    setattr(package, name, each)
    exec(code, each.__dict__)
try:
    each.main()
finally:
    os._exit(0)
"""
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # a program is worth the same each time
    "MALLOC_ARENA_MAX": "2",  # each takes much of the memory that a program may map
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def find_walls(wanted: str, packages: Sequence[str] = ()) -> Walls:
    """The first of the walls wanted that hold on this machine, as a trial shows; raises ConfigError with what is missing."""
    reasons = []
    for walls in candidates(wanted, packages):
        for pause_s in TRIAL_PAUSES_S:
            time.sleep(pause_s)
            if (reason := _reason_against(walls)) is None:
                return walls
        reasons.append(f"{walls.kind}: {reason}")
    raise refused(reasons)


def _reason_against(walls: Walls) -> str | None:
    """Why a program that returns 42 does not do so behind them; None if it does."""
    try:
        told = run(walls, Limits(START_TIMEOUT_S, 512, 1, 1), ["def f(): return 42"], CALLS, ("f", [()]))
    except (OSError, RewardError) as error:  # no program bwrap, for one
        return str(error)
    right = told and told[0] is not None and loads(told[0])[:2] == (True, 42)
    return None if right else "a program that returns 42 did not"


def run(walls: Walls, limits: Limits, sources: Sequence[str], style: str, tests: Any) -> list[Any]:
    """What came of each test that was done in time (see examiner.examine), in their order.

    `sources` are readings of what the model wrote, of which the first that is Python is run. Raises RewardError where there
    is no sandbox, or a test cannot be had.
    """
    with (
        tempfile.TemporaryDirectory() as folder,  # of no use but to one without walls, who has no other
        tempfile.TemporaryFile() as errors,
        _job(walls, limits, sources, (style, tests)) as job,
    ):
        process = subprocess.Popen(
            walls.command(_BOOT, limits.disk_mib),
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            return list(_heard(process.stdout.fileno(), limits))
        except Ended as error:
            errors.seek(0)
            said = errors.read(MAX_ERROR_CHARS).decode(errors="replace").strip()
            raise RewardError(f"the sandbox ended by itself{': ' if said else ''}{said}") from error
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    """Of the launcher: with the mark of this reward process, by which the pool finds it. No program has the mark."""
    return {**_ENVIRONMENT, **{name: value for name, value in os.environ.items() if name == MARK}}


def _job(walls: Walls, limits: Limits, sources: Sequence[str], tests: Any) -> Any:
    """A file with all that the first process reads, in its order."""
    settings = (
        walls.kind,
        user_of(os.getpid(), next(_sandboxes)),
        list(limits),
        program_filter(),
        walls.shared if walls.kind == NAMESPACES else [],
        walls.packages,
    )
    job = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        for body in (_bundle(), dumps(settings), dumps(list(sources)), dumps(tests)):
            job.write(frame(body))
    except (TypeError, ValueError) as error:
        job.close()
        raise RewardError(f"a test cannot be sent to a sandbox: {error}") from error
    job.seek(0)
    return job


@cache
def _bundle() -> bytes:
    """The modules of INSIDE, compiled."""
    folder = Path(__file__).parent
    codes = [(name, compile((folder / f"{name}.py").read_bytes(), f"{name}.py", "exec")) for name in INSIDE]
    return marshal.dumps(codes)


def _heard(pipe: int, limits: Limits) -> Iterator[Any]:
    """The outcomes, until all are told or the time is over; raises Ended, and RewardError for what is no score."""
    deadline = time.monotonic() + START_TIMEOUT_S

    def read(size: int) -> bytes:
        left = max(deadline - time.monotonic(), 0.0)
        if not select.select([pipe], [], [], left)[0]:
            raise TimeoutError
        part = os.read(pipe, size)
        if not part:
            raise Ended
        return part

    def message() -> Any:
        try:
            return loads(read_frame_until(read, 2 * limits.output_kib * 1024 + 4096))
        except ValueError as error:
            raise RewardError(f"the sandbox said what is no value: {error}") from error

    try:
        first, *why = message()
    except TimeoutError as error:
        raise RewardError(f"the sandbox was not ready after {START_TIMEOUT_S:g} s") from error
    if first != "ready":
        raise RewardError(f"there is no sandbox: {' '.join(map(str, why))}")
    deadline = time.monotonic() + limits.timeout_s + GRACE_S
    with suppress(TimeoutError):  # of a test that never asks the program again
        while (said := message())[0] != "end":
            if said[0] == "unsound":
                raise RewardError(f"the row's test cannot be run: {said[1]}")
            yield said[1]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends all of the sandbox, and waits until it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(KILL_TIMEOUT_S)
