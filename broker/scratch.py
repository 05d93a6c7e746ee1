"""A folder for this process alone, in the system's temporary one (TMPDIR), gone with the process."""

import fcntl
import os
import shutil
import stat
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO

PREFIX = "areal-weights-"
LOCK = ".lock"
YOUNG_S = 60.0
"""A folder that is younger may be one whose maker has not locked it yet."""


class Scratch:
    """The folder at `path`. One that a killed process has left behind is deleted when the next is made."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self.path / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._finalizer = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())

    def close(self) -> None:
        """Delete the folder."""
        self._finalizer()


def _remove(path: Path, lock: IO[str], owner: int) -> None:
    lock.close()
    if os.getpid() == owner:  # not a fork of it
        shutil.rmtree(path, ignore_errors=True)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the folder is this user's and nobody holds its lock: the kernel lets go of that when its holder ends."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < YOUNG_S:
            return False
        with (folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
