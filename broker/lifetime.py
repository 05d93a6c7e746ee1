"""Processes that never outlive the one that started them."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

STUCK = "stuck"
"""The name of threads that may stand in torch.distributed as their process ends, which then has to end at once."""


def end_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when the thread that started it ends, however it ends (Linux only).

    `parent` is the process id that the caller knows as its parent's: if it is not that any more, the process exits.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # it had ended before we asked
        os._exit(1)


def begin_child() -> None:
    """For `preexec_fn`: the child ends with its parent, and in a session of its own hears no Ctrl-C of the terminal's."""
    os.setsid()
    end_with_parent()
