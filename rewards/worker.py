"""The parent's side of a process that computes rewards."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterable
from typing import Any

from ..broker.errors import ConfigError, RewardError
from . import frames
from .footprint import MARK, kill_marked, memory_bytes
from .output import Output

KILL_TIMEOUT_S = 5.0
GRACE_S = 0.05
LOOK_S = 0.25
"""Between two looks at how much memory a process takes."""
MIB = 2**20
# The child imports what the parent can import, however the parent was started (a script, -m, pytest, Ray).
_BOOT = f"import sys; sys.path[:] = sys.argv[2:]; del sys.argv[2:]; from {__package__}.process import main; main()"
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class WornOut(RewardError):
    """A process has come to take too much memory over the calls that it has answered: the next one is not to blame."""


class Worker:
    """One process, replaced whenever it is started again. A kill reaches whatever a function has started, too: it is of the
    same process group or, if it left that, carries the mark that it was handed in its environment."""

    def __init__(
        self,
        functions: list[tuple[str, dict[str, Any]]],
        start_timeout_s: float,
        *,
        memory_mib: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """`memory_mib` is what the process and what it starts may take together, `timeout_s` what it gives an async call."""
        self._functions = frames.pack([timeout_s, functions])
        self._start_timeout_s = start_timeout_s
        self._memory_mib = memory_mib
        self._mark = ""
        self._looked_at = 0.0
        self._answered = 0
        self._process: asyncio.subprocess.Process | None = None
        self._output: Output | None = None
        self.takes: list[str] = []
        self.together = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """A fresh process with the functions loaded; raises ConfigError or RewardError if they cannot be."""
        await self.stop()
        self._mark, self._answered = uuid.uuid4().hex, 0
        arguments = [str(os.getpid()), *(entry for entry in sys.path if isinstance(entry, str))]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _BOOT, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD, MARK: self._mark},
            )
            assert self._process.stderr is not None
            self._output = Output(self._process.stderr)
            self.send([self._functions])
            (_, kind, told), _ = await self.receive(self._start_timeout_s)
        except (OSError, RewardError) as error:
            await self.stop()
            raise RewardError(f"the reward process did not start: {error}") from error
        if kind != frames.READY:
            await self.stop()
            raise ConfigError(told) if kind == frames.CONFIG else RewardError(f"a reward cannot be loaded:\n{told}")
        self.takes, self.together = told["takes"], told["together"]

    def send(self, calls: Iterable[bytes]) -> None:
        """Hands over frames without waiting: the child reads them while its answers are awaited."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"".join(calls))

    async def receive(self, timeout_s: float, *, late_s: float = 0.0) -> tuple[tuple[int, str, Any], Any]:
        """The next answer (call, kind, value or text), up to `late_s` after its time, and what was counted, if anything.

        Raises RewardError with the cause if the process is lost.
        """
        assert self._output is not None
        self._output.next_call()
        read = asyncio.ensure_future(self._read())
        try:
            if not await self._came(read, timeout_s + late_s):
                raise RewardError(f"timed out after {timeout_s:g} s")
            call, kind, value, *more = read.result()
            (counted,) = more or [{}]
        except (EOFError, OSError) as error:
            raise RewardError(await self._fate()) from error
        except (TypeError, ValueError) as error:
            raise RewardError(f"the process sent what is no answer: {error}") from error
        finally:
            read.cancel()
        self._answered += 1
        return (call, kind, value), counted

    async def _came(self, read: asyncio.Future[Any], timeout_s: float) -> bool:
        """Whether the answer is there in time; looks after the memory meanwhile."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        if self._answered > 1 and await self._is_too_large(clock()):
            raise WornOut(
                f"the process has come to take more than {self._memory_mib} MiB of memory (rewards.memory_mib)"
            )
        while not read.done() and (left := deadline - clock()) > 0:
            await asyncio.wait({read}, timeout=min(left, LOOK_S))
            if not read.done() and await self._is_too_large(clock()):
                raise RewardError(f"took more than {self._memory_mib} MiB of memory (rewards.memory_mib)")
        if not read.done():  # this loop may itself have been held up: look once more before judging
            await asyncio.wait({read}, timeout=GRACE_S)
        return read.done()

    async def _is_too_large(self, now: float) -> bool:
        """Whether the process takes more memory than it may, as far as it was looked at."""
        if self._memory_mib is None or self._process is None or now < self._looked_at + LOOK_S:
            return False
        self._looked_at = now
        return await asyncio.to_thread(memory_bytes, self._process.pid) > self._memory_mib * MIB

    async def stop(self) -> None:
        """Kills the process with all its group, and waits until it is gone."""
        if self._process is not None and self._process.returncode is None:  # else its number may be another's by now
            await _kill(self._process)
        if self._process is not None:
            await asyncio.to_thread(kill_marked, self._mark)
        if self._output is not None:
            await self._output.close(GRACE_S)
        self._process = self._output = None  # only now: whoever is cancelled in the wait leaves it to the next to stop

    async def _read(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        stdout = self._process.stdout
        size = frames.length(await stdout.readexactly(frames.HEADER.size))
        return frames.unpack(await stdout.readexactly(size))

    async def _fate(self) -> str:
        """How the process ended, from which nothing more will come; one that has not is killed."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), GRACE_S)
        code = self._process.returncode
        await _kill(self._process)
        if code is None:
            return "the process closed its pipe"
        return f"the process died with signal {-code}" if code < 0 else f"the process exited with code {code}"


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the group, also that of a leader that has just ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the latter of zombies
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):  # uninterruptible in the kernel; it will die of the signal later
        await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S)
