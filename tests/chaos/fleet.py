"""The processes of a run: started, struck, and started again after a moment, as a supervisor would."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from areal.broker.lifetime import begin_child

from .journal import Journal, Led, Reader, Trained
from .proxy import Proxy
from .roles import FENCED, Spec
from .server import EXCERPT, MortalRedis
from .settings import ENDLESS, ROLES, ROOT

TICK_S = 0.05
RESTART_S = 1.0
WOKEN_S = 60.0
"""How long a learner that has been replaced may take to find out, once it runs again."""

ERROR_MARKS = (" ERROR ", " CRITICAL ", "Traceback (most recent call last)")


class Overdue(Exception):
    """A wait that ended without what it awaited."""


@dataclass(slots=True)
class Member:
    """A role and the process that is it now, if there is one; else it is started at `restart_at` unless `done`."""

    role: str
    incarnation: int = 0
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()
    restart_at: float = 0.0
    wake_at: float | None = None
    killed: bool = False
    done: bool = False

    @property
    def name(self) -> str:
        return f"{self.role}.{self.incarnation}"

    @property
    def runs(self) -> bool:
        return self.process is not None and self.wake_at is None and self.process.poll() is None

    def kill(self) -> None:
        assert self.process is not None
        self.killed = True
        self.process.kill()

    def pause(self, lasts_s: float) -> None:
        """Stop it where it stands, for a while."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.wake_at = time.monotonic() + lasts_s

    def wake(self) -> None:
        self.wake_at = None
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)


@dataclass(slots=True)
class Stray:
    """A learner that was stopped and replaced; it is woken up when another leads an epoch above its own."""

    member: Member
    epoch: int
    woken_at: float | None = None


class Fleet:
    """Redis, the proxy and the roles. `surprises` are the ends and errors that nothing done here explains."""

    def __init__(self, directory: Path, seed: int) -> None:
        for name in ("journals", "logs", "run"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._seed = seed
        self._steps = ENDLESS
        self._proxy: Proxy | None = None
        self._standby: subprocess.Popen[bytes] | None = None
        self.reader = Reader(directory / "journals")
        self.journal = Journal(directory / "journals" / "harness.jsonl")
        self.redis = MortalRedis(directory / "redis", self.journal)
        self.members = {role: Member(role) for role in ROLES}
        self.strays: list[Stray] = []
        self.surprises: list[str] = []
        self.epoch = 0
        self.step = 0
        """Of the learner that leads; 0 until its first."""
        self.stepped_at = time.time()

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    @property
    def quiet(self) -> bool:
        """Whether all is up, and no stray about."""
        return all(member.runs for member in self.members.values()) and not self.strays and self.redis.state == "up"

    def start(self) -> None:
        port = urlsplit(self.redis.start()).port
        assert port is not None
        journal, log = self._directory / "journals" / "proxy.jsonl", self._directory / "logs" / "proxy.log"
        self._proxy = Proxy(port, ROLES, journal, log)

    def tick(self) -> None:
        """Look after everything once."""
        if last_words := self.redis.tend():
            self.surprises.append(f"redis-server ended by itself:\n{last_words}")
        now = time.monotonic()
        for member in self.members.values():
            self._tend(member, now)
        for stray in list(self.strays):
            self._tend_stray(stray, now)
        for entry in self.reader.poll():
            record = entry.record
            if isinstance(record, Led) and record.epoch > self.epoch:
                self.epoch, self.step = record.epoch, 0
            elif isinstance(record, Trained) and record.epoch == self.epoch:
                self.step, self.stepped_at = record.step, entry.time

    def until(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        """Tick until it holds; raises Overdue."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise Overdue(f"waited {timeout_s:g} s for {what}; {self.state()}")
            self.tick()
            time.sleep(TICK_S)

    def state(self) -> str:
        """In words, for an error."""
        roles = [f"{m.name} {'runs' if m.runs else 'done' if m.done else 'down'}" for m in self.members.values()]
        since_s = time.time() - self.stepped_at
        return (
            f"step {self.step} of epoch {self.epoch}, {since_s:.0f} s ago; redis {self.redis.state}; {', '.join(roles)}"
        )

    def replace_learner(self) -> None:
        """Stop the learner and start another in its place; the first is woken up once the second leads."""
        old = self.members["learner"]
        old.pause(0.0)
        self.strays.append(Stray(old, self.epoch))
        self.members["learner"] = Member("learner", old.incarnation)

    def release(self, steps: int) -> None:
        """Start again the roles that have ended well, the learner with so many steps to take in all."""
        self._steps = steps
        for member in self.members.values():
            member.done, member.restart_at = False, 0.0

    def stop(self) -> None:
        """End every process that was started here, by its id."""
        members = [*self.members.values(), *(stray.member for stray in self.strays)]
        proxy = self._proxy.process if self._proxy else None
        for process in [*(member.process for member in members), self._standby, proxy]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.redis.stop()

    def _tend(self, member: Member, now: float) -> None:
        if member.process is None:
            if not member.done and now >= member.restart_at:
                self._launch(member)
            return
        if member.wake_at is not None and now >= member.wake_at:
            member.wake()
        code = member.process.poll()
        if code is not None:
            self._inspect(member, code)
            member.process, member.restart_at, member.wake_at = None, now + RESTART_S, None
            member.done, member.killed = code == 0, False

    def _tend_stray(self, stray: Stray, now: float) -> None:
        member = stray.member
        assert member.process is not None
        code = member.process.poll()
        if code is not None:
            self._inspect(member, code, expected=FENCED)
            self.strays.remove(stray)
        elif stray.woken_at is None and self.epoch > stray.epoch:
            member.wake()
            stray.woken_at = now
        elif stray.woken_at is not None and now > stray.woken_at + WOKEN_S and not member.killed:
            self.surprises.append(f"{member.name}, which had been replaced, ran on for {WOKEN_S:g} s after it woke up")
            member.kill()

    def _launch(self, member: Member) -> None:
        member.incarnation += 1
        member.log = self._directory / "logs" / f"{member.name}.log"
        url, port = urlsplit(self.redis.url), self.proxy.ports[member.role]
        spec = Spec(
            role=member.role,
            url=f"redis://:{url.password}@127.0.0.1:{port}/0?client_name={member.role}",
            directory=str(self._directory / "run"),
            journal=str(self._directory / "journals" / f"{member.name}.jsonl"),
            steps=self._steps,
            seed=self._seed + 1000 * ROLES.index(member.role) + member.incarnation,
            told_at=time.time(),
        )
        member.process = self._relieve(member) if member.role == "learner" else self._prepare(member.role, member.log)
        assert member.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            member.process.stdin.write(spec.to_json())
            member.process.stdin.close()

    def _relieve(self, member: Member) -> subprocess.Popen[bytes]:
        """The learner that stood by, so that a new one need not load its code first; and begin the next."""
        following = self._directory / "logs" / f"{member.role}.{member.incarnation + 1}.log"
        process = self._standby or self._prepare(member.role, member.log)
        self._standby = self._prepare(member.role, following)
        return process

    def _prepare(self, role: str, log: Path) -> subprocess.Popen[bytes]:
        """A process that loads the code of a role and then waits to be told its Spec."""
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.roles", role],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
            )

    def _inspect(self, member: Member, code: int, *, expected: int = 0) -> None:
        """Note an end that nobody here brought about, and errors in the log."""
        text = member.log.read_text(errors="replace")
        if not (member.killed or code in (0, expected)):
            self.surprises.append(f"{member.name} ended with exit code {code}:\n{text[-EXCERPT:]}")
        elif marked := [text.find(mark) for mark in ERROR_MARKS if mark in text]:
            self.surprises.append(f"{member.name} logged an error:\n{text[min(marked) :][:EXCERPT]}")
