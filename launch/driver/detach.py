"""`areal run CONFIG --detach`: a driver in a session of its own, which no terminal ends.

`python -m areal.launch.driver.detach CONFIG` is that driver; or, with cluster.on_driver_loss restart, the guard that starts one
and, when it is killed, another (guard.py). Overrides come by standard input, as a list of JSON: a password may be among them,
and what is on a command line anybody on the machine may read.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...broker.errors import ArealError
from ...broker.helm import RUNNING, Driving
from ..cluster.process import own_environment
from ..control.logs import BEGINS, Log
from ..records.rundir import DRIVER_LOG, RunDirectory, as_argument
from ..screen import safe
from .guard import Guard, hand
from .hangup import leave_terminal
from .logbook import INTERRUPTED, read_driving

UNDER_WAY_S = 600.0
LOOK_S = 0.2
GUARDED_BY = "--guarded-by"


def start(config_file: Path, overrides: Sequence[str], directory: Path) -> int:
    """Start the driver of a run in the background, and wait until its roles are at work or it has failed.

    directory: the run directory. Returns 0, or the exit code that the driver ended with. Raises ArealError if it was killed.
    """
    log = Log(directory / "logs" / DRIVER_LOG)
    list(log.lines(0))  # of earlier drivers
    began = time.time()
    process = subprocess.Popen(
        command([str(config_file)]), stdin=subprocess.PIPE, env=own_environment(), start_new_session=True
    )
    try:
        hand(process, json.dumps(overrides).encode())
        return _await_under_way(process, directory, log, began)
    except KeyboardInterrupt:
        name = as_argument(directory)
        print(f"\nleft; it goes on starting: areal attach {name}, areal stop {name}")
        return INTERRUPTED
    finally:
        process.returncode = process.poll() or 0  # or Python would warn that it goes on without us


def command(arguments: Sequence[str]) -> list[str]:
    """What is run in the background."""
    return [sys.executable, "-P", "-m", "areal.launch.driver.detach", *arguments]


def _await_under_way(process: "subprocess.Popen[bytes]", directory: Path, log: Log, began: float) -> int:
    deadline = time.monotonic() + UNDER_WAY_S
    while time.monotonic() < deadline:
        exit_code = process.poll()
        driving = _own(read_driving(directory), began)
        _show_new(log)
        if exit_code is not None:
            return _ended(exit_code, driving, directory)
        if driving is not None and driving.state == RUNNING:
            break
        time.sleep(LOOK_S)
    else:
        print(f"it is still starting after {UNDER_WAY_S:g} s")
    print(_how_to_go_on(process.pid, directory))
    return 0


def _show_new(log: Log) -> None:
    """What the driver has said since."""
    for line in log.lines(0):
        if BEGINS.match(line.text):
            print(safe(line.text), flush=True)


def _own(driving: Driving | None, began: float) -> Driving | None:
    """What a driver has said of itself, if it is not one of before."""
    return driving if driving is not None and driving.started_at >= began else None


def _ended(exit_code: int, driving: Driving | None, directory: Path) -> int:
    """Say what a driver ended on that has ended already; what it said before it had a log has been seen."""
    log = directory / "logs" / DRIVER_LOG
    if exit_code < 0:
        raise ArealError(f"the driver was killed by {signal.Signals(-exit_code).name} as it started; its log: {log}")
    if driving is not None and driving.error:
        print(f"\nareal: {safe(driving.error)}\n  the driver's log: {log}", file=sys.stderr)
    elif driving is not None and exit_code == 0:
        print(f"{driving.run} is done; areal status {as_argument(directory)} tells what it came to")
    return exit_code


def _how_to_go_on(pid: int, directory: Path) -> str:
    name = as_argument(directory)
    return (
        f"\n{directory.name} runs in the background (process {pid}):\n"
        f"  areal attach {name}     follow it; Ctrl-C leaves it running\n"
        f"  areal status {name}     where it stands, and who is at work\n"
        f"  areal logs {name} -f    what its roles print\n"
        f"  areal stop {name}       drain, save a checkpoint and end"
    )


# In the background


def main(arguments: Sequence[str]) -> int:
    """Be the driver, or its guard."""
    from ..cli import guarded

    by = int(arguments[1]) if arguments[0] == GUARDED_BY else None
    return guarded(partial(_be, Path(arguments[-1]), sys.stdin.read(), by))


def _be(config_file: Path, handed: str, guard: int | None) -> int:
    from ..config import load_run_config
    from .run import execute

    config = load_run_config(config_file, json.loads(handed))
    if config.cluster.on_driver_loss == "restart" and guard is None:
        driver, restarts = command([GUARDED_BY, str(os.getpid()), str(config_file)]), config.cluster.max_restarts
        return Guard(driver, own_environment(), config.path, handed=handed.encode(), max_restarts=restarts).run()
    return execute(config, config_file.resolve().parent, opened=_into_log, guard=guard)


def _into_log(rundir: RunDirectory) -> None:
    leave_terminal(rundir.logs / DRIVER_LOG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
