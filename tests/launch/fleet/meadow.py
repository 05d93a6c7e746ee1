"""A run that may be joined, and light processes in place of its workers, which obey orders and do nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.fleet import Fleet
from areal.broker.helm import FAILED, FIELD, RUNNING, Driving, Helm
from areal.broker.keys import Keys
from areal.broker.rollcall import Member, RollCall
from areal.launch.config import RunConfig, load_run_config
from areal.launch.fleet.offer import write_offer

CONFIG = Path(__file__).parents[3] / "configs" / "rlcm_digits_compress.yaml"

WORKER = """
import json, os, sys, time
from areal.broker.bulletin import RUN, Bulletin
from areal.broker.client import connect
from areal.broker.rollcall import Member, RollCall
from areal.broker.server import EmbeddedRedis
tell, spec, began = int(sys.argv[-1]), json.loads(sys.stdin.read()), time.time()
name, client = spec["name"], connect(spec["broker_url"])
print(spec["shared"], spec["index"])
{begins}
roll, bulletin = RollCall(client, spec["run_key"], silent_after_s=5), Bulletin(client, spec["run_key"])
while bulletin.ordered_of(name) {stays}:
    roll.beat(Member(name, "rollout", "here", os.getpid(), began, time.time(), 0))
    time.sleep(0.05)
roll.leave(name)
"""


class Meadow:
    """A run that workers may join, and those on its roll."""

    def __init__(self, client: Client, run: str, here: Path) -> None:
        self.client, self.key, self.here = client, run, here
        self.fleet, self.bulletin, self.helm = Fleet(client, run), Bulletin(client, run), Helm(client, run)
        self.offer()
        self.drive()
        (self.config.path / "weights").mkdir(parents=True)

    def offer(self, *overrides: str) -> None:
        folder = f"directory={self.here / 'elsewhere'}"
        self.config: RunConfig = load_run_config(CONFIG, [f"run={self.key}", folder, *overrides])
        self.fleet.keep_offer(write_offer(self.config))

    def drive(self, state: str = RUNNING, *, guard: int | None = None, error: str = "") -> None:
        """Its driver says how it does."""
        code = 1 if state == FAILED else None
        told = Driving("aa", self.key, state, 12, "box", 1.5, "/runs/x", guard=guard, exit_code=code, error=error)
        self.helm.tell(told)

    def has_been_silent(self, ago_s: float) -> None:
        """What its driver said last is so old."""
        key = Keys(self.key).driver
        told = bytes(self.client.hget(key, FIELD) or b"").partition(b" ")[2]  # type: ignore[arg-type]
        self.client.hset(key, FIELD, f"{round(1000 * (time.time() - ago_s))} ".encode() + told)  # type: ignore[arg-type]

    def members(self) -> list[Member]:
        return [heard.member for heard in RollCall(self.client, self.key, silent_after_s=5).heard()]

    def await_members(self, count: int) -> list[Member]:
        deadline = time.monotonic() + 20
        while len(members := self.members()) != count:
            assert time.monotonic() < deadline, members
            time.sleep(0.02)
        return members


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Done in a thread; what it raises is raised here."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)
            for _ in range(3):
                interrupt()
                time.sleep(0.1)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    assert not failures, failures


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
