"""The parent's side of a process that computes rewards."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from ..broker.errors import ConfigError, RewardError
from . import frames

KILL_TIMEOUT_S = 5.0
GRACE_S = 0.05
# The child imports what the parent can import, however the parent was started (a script, -m, pytest, Ray).
_BOOT = f"import sys; sys.path[:] = sys.argv[2:]; del sys.argv[2:]; from {__package__}.process import main; main()"
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Worker:
    """One process, replaced whenever it is started again. It is the leader of its process group, so a kill reaches what
    a function started, too (unless that made a session of its own)."""

    def __init__(self, functions: list[tuple[str, dict[str, Any]]], start_timeout_s: float) -> None:
        self._functions = frames.pack(functions)
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """A fresh process with the functions loaded; raises ConfigError or RewardError if they cannot be."""
        await self.stop()
        arguments = [str(os.getpid()), *(entry for entry in sys.path if isinstance(entry, str))]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _BOOT, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD},
            )
            self.send([self._functions])
            _, kind, text = await self.receive(self._start_timeout_s)
        except (OSError, RewardError) as error:
            await self.stop()
            raise RewardError(f"the reward process did not start: {error}") from error
        if kind != frames.READY:
            await self.stop()
            raise ConfigError(text) if kind == frames.CONFIG else RewardError(f"a reward cannot be loaded:\n{text}")

    def send(self, calls: Iterable[bytes]) -> None:
        """Hands over frames without waiting: the child reads them while its answers are awaited."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"".join(calls))

    async def receive(self, timeout_s: float) -> tuple[int, str, Any]:
        """The next answer (call, kind, value or text); raises RewardError with the cause if the process is lost."""
        read = asyncio.ensure_future(self._read())
        try:
            done, _ = await asyncio.wait({read}, timeout=timeout_s)
            if not done:  # this loop may itself have been held up: look once more before judging
                done, _ = await asyncio.wait({read}, timeout=GRACE_S)
            if not done:
                raise RewardError(f"timed out after {timeout_s:g} s")
            call, kind, value = read.result()
        except (EOFError, OSError) as error:
            raise RewardError(await self._fate()) from error
        except (TypeError, ValueError) as error:
            raise RewardError(f"the process sent what is no answer: {error}") from error
        finally:
            read.cancel()
        return call, kind, value

    async def stop(self) -> None:
        """Kills the process with all its group, and waits until it is gone."""
        if self._process is not None and self._process.returncode is None:  # else its number may be another's by now
            await _kill(self._process)
        self._process = None  # only now: whoever is cancelled in the wait leaves it to the next to stop

    async def _read(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        stdout = self._process.stdout
        size = frames.length(await stdout.readexactly(frames.HEADER.size))
        return frames.unpack(await stdout.readexactly(size))

    async def _fate(self) -> str:
        assert self._process is not None
        code = await _kill(self._process)
        if code is None:
            return "the process closed its pipe"
        return f"the process died with signal {-code}" if code < 0 else f"the process exited with code {code}"


async def _kill(process: asyncio.subprocess.Process) -> int | None:
    """Kills the group, also that of a leader that has just ended, and returns the leader's exit code if it has one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the latter of zombies
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    try:
        return await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S)
    except TimeoutError:  # uninterruptible in the kernel; it will die of the signal later
        return None
