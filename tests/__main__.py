"""All tests, in two halves beside each other: whole runs, which wait a lot, and everything else.

    python -m tests [arguments of pytest]

Each is `pytest` as a person would call it; its lines are shown as they come, with its name.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
RUNS = ("cluster", "e2e", "chaos")
"""Folders of tests that start whole runs."""

AGAIN = ("FAILED ", "ERROR ")
NOTHING_CHOSEN = 5
"""pytest's exit code where its arguments leave no test of a half."""


def main(arguments: list[str]) -> int:
    """The worst exit code of both; nothing chosen is bad where it holds for both."""
    folders = sorted(path.name for path in HERE.iterdir() if list(path.rglob("test_*.py")))
    halves = {"runs": RUNS, "rest": [name for name in folders if name not in RUNS]}
    processes = {name: _start(parts, arguments) for name, parts in halves.items()}
    told: list[str] = []
    readers = [threading.Thread(target=_show, args=(name, process, told)) for name, process in processes.items()]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _pass_on(number, processes.values()))
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in processes.values()]
    for reader in readers:
        reader.join()
    print("\nboth halves", *told, sep="\n")
    chosen = [code for code in codes if code != NOTHING_CHOSEN]
    return max((abs(code) for code in chosen), default=NOTHING_CHOSEN)


def _start(folders: Sequence[str], arguments: Sequence[str]) -> "subprocess.Popen[str]":
    paths = [str((HERE / name).relative_to(HERE.parent)) for name in folders]
    command = [sys.executable, "-m", "pytest", *paths, *arguments]
    return subprocess.Popen(
        command, cwd=HERE.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def _show(name: str, process: "subprocess.Popen[str]", told: list[str]) -> None:
    """What a half prints; what failed, and its last line, are told again at the end."""
    line = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name} │ {line}", end="", flush=True)
        if line.startswith(AGAIN):
            told.append(f"{name} │ {line.rstrip()}")
    told.append(f"{name} │ {line.rstrip()}")


def _pass_on(number: int, processes: Iterable["subprocess.Popen[str]"]) -> None:
    for process in processes:
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
