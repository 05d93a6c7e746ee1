"""A run as a person sees it who did not start it: by its Redis, and by the commands beside it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client, connect
from areal.broker.rollcall import Member, RollCall

from .conftest import MARK, Run

WITHIN_S = 200.0


class Outside:
    """Looks at a run by its Redis, and calls the commands beside it, as a person would."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.url = (run.directory / "redis" / "url").read_text()
        self.key = f"{run.directory.name}-{(run.directory / '.id').read_text().strip()}"
        self.client: Client = connect(self.url, timeout_s=10.0)
        self._bulletin = Bulletin(self.client, self.key)
        self._after = self._bulletin.last()
        self._groups: dict[str, int] = {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "areal", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.run.directory.parents[1],
            env=os.environ | {MARK: self.run.mark},
            start_new_session=True,
        )

    def scale(self, count: int) -> str:
        process = self.start("scale", self.run.directory.name, f"rollout={count}", "--timeout", f"{WITHIN_S:g}")
        said, _ = process.communicate(timeout=2 * WITHIN_S)
        assert process.returncode == 0, f"{said}\n{self.run.text}\n{self.run.logs()}"
        return said

    def members(self) -> dict[str, Member]:
        """The workers at work."""
        return {name: each for name, each in self.everybody().items() if each.role == "rollout" and each.version >= 0}

    def everybody(self) -> dict[str, Member]:
        """Who answers the roll-call."""
        heard = RollCall(self.client, self.key, silent_after_s=5.0).heard()
        return {each.member.name: each.member for each in heard if not each.silent}

    def groups_of(self, worker: str) -> int:
        """How many a worker has completed, by its newest record."""
        records, self._after = self._bulletin.read(self._after, timeout_s=0.01)
        for record in records:
            if record["kind"] == "worker":
                self._groups[record["worker"]] = record["groups_completed"]
        return self._groups.get(worker, 0)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert self.run.process.poll() is None, f"the run ended: {self.run.text}\n{self.run.logs()}"
            assert time.monotonic() < deadline, f"{what} did not come about\n{self.run.text}\n{self.run.logs()}"
            time.sleep(0.2)
