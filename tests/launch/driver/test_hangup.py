"""What a terminal that goes away does to a process."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from areal.launch.driver.hangup import deferring_hangup, enduring_hangup


@pytest.mark.parametrize("others", [0, 2])
def test_the_signal_comes_once_it_is_no_longer_held_back(others: int) -> None:
    """Also where other threads let it through."""
    came: list[int] = []
    ended = threading.Event()
    threads = [threading.Thread(target=ended.wait) for _ in range(others)]
    for thread in threads:
        thread.start()
    before = signal.signal(signal.SIGHUP, lambda number, frame: came.append(number))
    try:
        with deferring_hangup():
            os.kill(os.getpid(), signal.SIGHUP)
            child = [sys.executable, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"]
            masked = subprocess.run(child, capture_output=True, text=True, check=True).stdout
            assert came == [] and "SIGHUP" in masked
        assert came == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
        ended.set()


def test_only_the_loss_of_a_terminal_is_endured() -> None:
    with enduring_hangup():
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="No space left"), enduring_hangup():
        raise OSError(errno.ENOSPC, "No space left")


def test_what_is_printed_goes_to_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    log.write_text("before\n")
    program = (
        "import sys\nfrom pathlib import Path\nfrom areal.launch.driver.hangup import leave_terminal\n"
        "print('seen', flush=True)\nleave_terminal(Path(sys.argv[1]))\n"
        "print('kept', flush=True)\nprint('error', file=sys.stderr)\nassert sys.stdin.read() == ''\n"
    )
    done = subprocess.run([sys.executable, "-c", program, log], capture_output=True, text=True, input="x", check=True)
    assert (done.stdout, done.stderr) == ("seen\n", "") and log.read_text() == "before\nkept\nerror\n"
