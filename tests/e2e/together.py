"""A run in one process: its learner and its worker are threads, between them a real Redis; Ray and the display are left out."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal.broker.bulletin import DRAIN, Bulletin
from areal.broker.client import connect
from areal.broker.rollcall import Activity
from areal.broker.weights import open_store
from areal.launch.config import RunConfig, load_run_config
from areal.launch.roles import LEARNER, ROLLOUT, RoleSpec, run_learner, run_rollout

ALL_S = 300.0
LOADED_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """The records of a run, by kind."""

    records: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]


def run_together(config_file: Path, url: str, directory: Path, run: str, *overrides: str) -> Outcome:
    """Train to the end under that key, and hand in what was reported."""
    config = load_run_config(config_file, [f"directory={directory}", *overrides])
    worker = threading.Thread(target=_work, args=(config, url, run), daemon=True)
    worker.start()
    client = connect(url, timeout_s=10.0)
    run_learner(_spec(LEARNER, config, url, run), config, client, Activity())
    bulletin = Bulletin(client, run)
    bulletin.keep_order(DRAIN)
    worker.join(ALL_S)
    assert not worker.is_alive(), "the worker did not drain"
    records, after = [], "0"
    while True:
        found, after = bulletin.read(after, timeout_s=0.1)
        records += found
        if not found:
            return Outcome(records)


def _work(config: RunConfig, url: str, run: str) -> None:
    """Begins when the learner has its model: loading is for one thread at a time."""
    spec, client = _spec(f"{ROLLOUT}-0", config, url, run), connect(url, timeout_s=10.0)
    store = open_store(client, spec.run_key, config.broker, Path(spec.directory) / "weights")
    deadline = time.monotonic() + LOADED_S
    while store.wait(-1, timeout_s=1.0) is None:
        assert time.monotonic() < deadline, f"no weights within {LOADED_S:g} s"
    run_rollout(spec, config, client, Activity())


def _spec(name: str, config: RunConfig, url: str, run: str) -> RoleSpec:
    config.path.mkdir(parents=True, exist_ok=True)
    return RoleSpec(name, config.model_dump(mode="json"), config.model.path, url, str(config.path), run)
