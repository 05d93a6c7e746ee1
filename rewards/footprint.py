"""What a process and those that it started take up, and how to be rid of all of them."""

import contextlib
import os
import signal
from pathlib import Path

import psutil

MARK = "AREAL_REWARD_PROCESS"
"""The environment variable that a reward process hands down to whatever it starts, detached or not."""
MAX_ROUNDS = 10


def memory_bytes(pid: int) -> int:
    """The resident memory of a process and its descendants; 0 for one that is gone."""
    try:
        process = psutil.Process(pid)
        return sum(_resident(each) for each in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0


def kill_marked(mark: str) -> int:
    """Kill every process that has been handed this mark, and what these start meanwhile; returns how many there were."""
    killed: set[int] = set()
    for _ in range(MAX_ROUNDS):
        found = [pid for pid in psutil.pids() if pid not in killed and _marked(pid, f"{MARK}={mark}".encode())]
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
    return len(killed)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _marked(pid: int, entry: bytes) -> bool:
    try:
        return entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
