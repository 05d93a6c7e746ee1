"""A process that has loaded the learner's code, once, and becomes a learner of its own by a fork whenever one is wanted.

Loading takes tens of seconds on a small machine; faults that strike a run without a learner would prove little.
`python -m tests.chaos.nursery` reads a JSON line for each child, {"spec": …, "log": path}, and writes {"born": pid}, in the
order asked, and {"dead": pid, "code": exit code}.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from areal.broker.lifetime import begin_child

from .roles import Spec, play
from .settings import ROOT

TICK_S = 0.02


class Nursery:
    """The process, as the harness holds it. `poll` it often."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._unborn: deque[Child] = deque()
        self._children: dict[int, Child] = {}
        self._unread = b""

    def bear(self, spec: Spec, log: Path) -> "Child":
        """Ask for a child; it has no pid until it is born."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"spec": spec.to_json(), "log": str(log)}).encode() + b"\n")
        self.process.stdin.flush()
        self._unborn.append(Child())
        return self._unborn[-1]

    def poll(self) -> None:
        """Take in who was born and who died."""
        assert self.process.stdout is not None
        *lines, self._unread = (self._unread + (self.process.stdout.read() or b"")).split(b"\n")
        for line in map(json.loads, lines):
            if "born" in line:
                child = self._unborn.popleft()
                child.pid = line["born"]
                self._children[line["born"]] = child
            else:
                self._children.pop(line["dead"]).code = line["code"]


class Child:
    """A forked process, with what is needed of subprocess.Popen."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        """To a process that is born and not known to be dead; it may have died this moment."""
        if self.pid is not None and self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def main() -> int:
    """Serve until standard input ends; in a child, be the role."""
    began = time.monotonic()
    importlib.import_module("areal.learner.learner")
    import_s = time.monotonic() - began
    gc.freeze()
    unread = b""
    while True:
        _bury_dead()
        if not select.select([0], [], [], TICK_S)[0]:
            continue
        read = os.read(0, 65_536)
        if not read:
            return 0
        *lines, unread = (unread + read).split(b"\n")
        for line in map(json.loads, lines):
            pid = os.fork()
            if pid == 0:
                _settle(line["log"])
                return play(Spec.from_json(line["spec"]), import_s)
            _tell({"born": pid})


def _settle(log: str) -> None:
    """Make the child a process like any other: its own session and log, and gone with the nursery."""
    begin_child()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _bury_dead() -> None:
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            _tell({"dead": found[0], "code": os.waitstatus_to_exitcode(found[1])})
    except ChildProcessError:
        return


def _tell(line: dict[str, int]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
