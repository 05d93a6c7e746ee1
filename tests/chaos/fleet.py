"""The processes of a run: started, struck, and started again after a moment, as a supervisor would."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import redis

from areal.broker.bulletin import LEAVE, RUN
from areal.broker.client import Client
from areal.broker.fleet import Fleet as Orders
from areal.broker.lifetime import begin_child

from .journal import Entry, Journal, Led, Reader, Replaced, Trained
from .nursery import Child, Nursery
from .proxy import Proxy
from .roles import FENCED, Spec
from .server import EXCERPT, MortalRedis
from .settings import ENDLESS, ROLES, ROOT, WORKERS
from .settings import RUN as RUN_KEY

TICK_S = 0.05
ORDERS_EVERY_S = 0.25
DIRECT_S = 1.0
"""How long the harness itself waits for Redis."""

RESTART_S = 1.0
MAX_SURPRISES = 10
STALLED_S = 150.0
"""How long a learner may go without a step, from its start or the last."""

WOKEN_S = 60.0
"""How long a learner that has been replaced may take to find out, once it runs again."""

PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+")
"""A folder of this machine, which is nobody's business."""

ERROR_MARKS = (" ERROR ", " CRITICAL ", "Traceback (most recent call last)")


class Overdue(Exception):
    """A wait that ended without what it awaited."""


@dataclass(slots=True)
class Member:
    """A role and the process that is it now, if there is one; else it is started at `restart_at` unless `done`.

    A worker that was told to leave is `leaving`, until it has and another may take its place.
    """

    role: str
    incarnation: int = 0
    process: subprocess.Popen[bytes] | Child | None = None
    log: Path = Path()
    restart_at: float = 0.0
    wake_at: float | None = None
    killed: bool = False
    done: bool = False
    leaving: bool = False

    @property
    def name(self) -> str:
        return f"{self.role}.{self.incarnation}"

    @property
    def runs(self) -> bool:
        """Whether it can be struck: born, not stopped, not dead."""
        alive = self.process is not None and self.process.pid is not None and self.process.poll() is None
        return alive and self.wake_at is None and not self.killed

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
    """A learner that was stopped and replaced; it is woken up when the other leads."""

    member: Member
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
        self._nursery: Nursery | None = None
        self.reader = Reader(directory / "journals")
        self.journal = Journal(directory / "journals" / "harness.jsonl")
        self.redis = MortalRedis(directory / "redis", self.journal)
        self.members = {role: Member(role) for role in ROLES}
        self.strays: list[Stray] = []
        self.surprises: list[str] = []
        self.ending = False
        """Whether the run is told to drain: who ends well now is not replaced."""
        self._orders_at = 0.0
        self.upon_lead: list[Callable[[Entry], None]] = []
        """What to do once, with the entry, when the next learner leads."""
        self.leader = ""
        """The process that was the last to lead."""
        self.step = 0
        """The leader's last; 0 until its first."""
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
        self._nursery = Nursery(self._directory / "logs" / "nursery.log")

    def tick(self) -> None:
        """Look after everything once."""
        if last_words := self.redis.tend():
            self.surprises.append(f"redis-server ended by itself:\n{last_words}")
        assert self._nursery is not None
        self._nursery.poll()
        now = time.monotonic()
        if self.redis.state == "up" and now - self._orders_at > ORDERS_EVERY_S:
            self._orders_at = now
            self._say_orders()
        for member in self.members.values():
            self._tend(member, now)
        for stray in list(self.strays):
            self._tend_stray(stray, now)
        for entry in self.reader.poll():
            if isinstance(entry.record, Led):
                self._led(entry)
            elif isinstance(entry.record, Trained) and entry.process == self.leader:
                self.step, self.stepped_at = entry.record.step, entry.time

    def until(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        """Tick until it holds; raises Overdue."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise Overdue(f"waited {timeout_s:g} s for {what}; {self.state()}")
            self.watch()

    def watch(self) -> None:
        """Tick, and wait a moment; raises Overdue if no more good is to be expected."""
        self.tick()
        if len(self.surprises) > MAX_SURPRISES:
            raise Overdue(f"{len(self.surprises)} unexpected errors; {self.state()}")
        if time.time() - self.stepped_at > STALLED_S:
            raise Overdue(f"no step for {STALLED_S:g} s; {self.state()}")
        time.sleep(TICK_S)

    def state(self) -> str:
        """In words, for an error."""
        roles = [f"{m.name} {'runs' if m.runs else 'done' if m.done else 'down'}" for m in self.members.values()]
        since_s = time.time() - self.stepped_at
        return f"{self.leader} at step {self.step} for {since_s:.0f} s; redis {self.redis.state}; {', '.join(roles)}"

    def replace_learner(self) -> None:
        """Stop the learner and start another in its place; the first is woken up once the second leads."""
        old = self.members["learner"]
        old.pause(0.0)
        self.journal.write(Replaced(old.name))
        self.strays.append(Stray(old))
        self.members["learner"] = Member("learner", old.incarnation)

    def _say_orders(self) -> None:
        """Tell every worker what it is to do, as a driver does: again and again, for a Redis that has forgotten it."""
        workers = {role: member for role, member in self.members.items() if role in WORKERS}
        gone = [member for member in workers.values() if member.leaving and member.process is None]
        words = {role: LEAVE if member.leaving and member not in gone else RUN for role, member in workers.items()}
        with contextlib.suppress(redis.RedisError), self.direct() as client:
            Orders(cast(Client, client), RUN_KEY).keep_orders(words)
            for member in gone:
                member.leaving = False

    def direct(self) -> redis.Redis:
        """A connection of the harness's own, past the proxy."""
        parts = urlsplit(self.redis.url)
        return redis.Redis("127.0.0.1", parts.port or 0, password=parts.password, socket_timeout=DIRECT_S)

    def release(self, steps: int) -> None:
        """Start again the roles that have ended well, the learner with so many steps to take in all."""
        self._steps, self.ending = steps, False
        for member in self.members.values():
            member.done, member.restart_at = False, 0.0

    def stop(self) -> None:
        """End every process that was started here, by its id."""
        members = [*self.members.values(), *(stray.member for stray in self.strays)]
        for process in [member.process for member in members if member.process is not None]:
            process.kill()
            if isinstance(process, subprocess.Popen):
                process.wait()
        for server in [server.process for server in (self._proxy, self._nursery) if server is not None]:
            with server:
                server.kill()
        self.redis.stop()
        self.journal.close()

    def _tend(self, member: Member, now: float) -> None:
        if member.process is None:
            if not member.done and not member.leaving and now >= member.restart_at:
                self._launch(member)
            return
        if member.wake_at is not None and now >= member.wake_at:
            member.wake()
        code = member.process.poll()
        if code is not None:
            self._inspect(member, code)
            member.process, member.restart_at, member.wake_at = None, now + RESTART_S, None
            member.done, member.killed = code == 0 and self.ending, False

    def _tend_stray(self, stray: Stray, now: float) -> None:
        member = stray.member
        assert member.process is not None
        code = member.process.poll()
        if code is not None:
            self._inspect(member, code, expected=FENCED)
            self.strays.remove(stray)
        elif stray.woken_at is not None and now > stray.woken_at + WOKEN_S and not member.killed:
            self.surprises.append(f"{member.name}, which had been replaced, ran on for {WOKEN_S:g} s after it woke up")
            member.kill()

    def _led(self, entry: Entry) -> None:
        """Another learner leads: those that it has replaced wake up."""
        self.leader = entry.process
        for stray in self.strays:
            if stray.woken_at is None and stray.member.name != entry.process:
                stray.member.wake()
                stray.woken_at = time.monotonic()
        while self.upon_lead:
            self.upon_lead.pop()(entry)

    def _launch(self, member: Member) -> None:
        member.incarnation += 1
        if member.role == "learner":
            self.step, self.stepped_at = 0, time.time()
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
        if member.role == "learner":
            assert self._nursery is not None
            member.process = self._nursery.bear(spec, member.log)
        else:
            member.process = _worker(spec, member.log)

    def _inspect(self, member: Member, code: int, *, expected: int = 0) -> None:
        """Note an end that nobody here brought about, and errors in the log."""
        text = PATH.sub("…/", member.log.read_text(errors="replace"))
        if not (member.killed or code in (0, expected)):
            last = (text.strip().splitlines() or ["without a word"])[-1]
            self.surprises.append(f"{member.name} ended with exit code {code}: {last}\n{text[-EXCERPT:]}")
        elif marked := [text.find(mark) for mark in ERROR_MARKS if mark in text]:
            self.surprises.append(f"{member.name} logged an error:\n{text[min(marked) :][:EXCERPT]}")


def _worker(spec: Spec, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.roles"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=begin_child,  # noqa: PLW1509 - it allocates nothing and takes no lock
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(spec.to_json().encode())
        process.stdin.close()
    return process
