"""Two ranks as processes of their own, as `areal run` starts them, on a real broker; a thread answers the prompts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from areal.broker.client import Client
from areal.learner import follower
from areal.learner.archive import open_weights
from areal.learner.best import ranking
from areal.learner.checkpoint import CheckpointStore
from areal.learner.follower import Follower, Shadow
from areal.learner.learner import Learner
from areal.learner.orders import Order
from areal.learner.pupil import Pupil
from areal.learner.ranks import ALONE
from areal.learner.shards import Shards

from .test_learner import records, rollout, settings_of
from .test_trainer import save_tiny_llama

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0


@dataclass
class Rank:
    """A role's process, and where it says what it ended on."""

    process: subprocess.Popen[str]
    reading: int

    def ended(self) -> tuple[int, str]:
        """Its exit code and last words."""
        code = self.process.wait(TIMEOUT_S)
        with os.fdopen(self.reading) as pipe:
            return code, pipe.read()


class Ensemble:
    """Starts ranks of one run."""

    def __init__(self, folder: Path, url: str, run: str) -> None:
        self._folder, self._url, self._run = folder, url, run
        self._started: list[Rank] = []
        save_tiny_llama(folder / "start")

    def start(self, index: int, *, ranks: int = 2, steps: int = 6, **model: Any) -> Rank:
        config = {
            "run": "ensemble",
            "model": {"path": "start"} | model,
            "dataset": {"source": "sort", "eval_size": 4},
            "rewards": {"functions": [{"name": "sort"}]},
            "rollout": {"group_size": 3},
            "learner": {"steps": steps, "groups_per_step": 2, "ranks": ranks, "record": True, "take_timeout_s": 60},
            "staleness": {"max": 2},
            "evaluation": {"every_steps": 2},
            "checkpoint": {"every_steps": 2, "archive_every_steps": 3, "best": 1},
            "broker": {"lease_s": 60},
        }
        name = f"learner-{index}" if index else "learner"
        spec = {"name": name, "config": config, "model_path": str(self._folder / "start"), "broker_url": self._url}
        spec |= {"directory": str(self._folder), "run_key": self._run, "index": index}
        reading, writing = os.pipe()
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "areal.launch.roles", str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                text=True,
            )
        os.close(writing)
        assert process.stdin is not None
        process.stdin.write(json.dumps(spec))
        process.stdin.close()
        self._started.append(Rank(process, reading))
        return self._started[-1]

    def stop(self) -> None:
        for rank in self._started:
            rank.process.kill()
            rank.process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self._folder.glob("*.log")))


@pytest.fixture
def ensemble(tmp_path: Path, redis_url: str, run: str) -> Iterator[Ensemble]:
    made = Ensemble(tmp_path, redis_url, run)
    yield made
    made.stop()


def await_step(client: Client, run: str, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not any(record["step"] >= step for record in records(client, run, "step")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_ranks_from_start_to_end_and_one_goes_on(
    client: Client, run: str, tmp_path: Path, ensemble: Ensemble
) -> None:
    """What two ranks publish and save is whole, and one rank resumes from it."""
    with rollout(client, run, tmp_path):
        ranks = [ensemble.start(index) for index in (0, 1)]
        assert [rank.ended() for rank in ranks] == [(0, ""), (0, "")], ensemble.logs()
        published = max((tmp_path / "weights").iterdir())
        files = sorted(file.name for file in published.iterdir())
        assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        parts = [load_file(published / file) for file in files]
        weights = parts[0] | parts[1]
        assert all(parts) and not parts[0].keys() & parts[1].keys()
        saved = CheckpointStore(tmp_path / "checkpoints", keep=2).load_latest()
        assert saved is not None and saved.state.step == 6
        archived = open_weights(tmp_path / "checkpoints", 3)
        assert archived.names() == sorted(weights)
        (best,) = ranking(tmp_path / "checkpoints")
        assert Shards(best.folder / "weights").names() == sorted(weights)
        assert_same(weights, saved.read("weights"))
        assert_same(weights, {name: load_file(tmp_path / "model" / "model.safetensors")[name] for name in weights})
        Learner(settings_of(run, tmp_path, steps=8), client).run()
    finals = records(client, run, "final")
    assert [final["step"] for final in finals] == [6, 8]
    assert (finals[-1]["groups_trained"], finals[-1]["groups_lost"], finals[-1]["outstanding"]) == (16, 0, 0)


@pytest.mark.parametrize(("killed", "model"), [(0, {"lora": {"rank": 4}}), (1, {})], ids=["leader", "follower"])
def test_when_a_rank_is_killed_the_others_end_and_all_begin_again(
    client: Client, run: str, tmp_path: Path, ensemble: Ensemble, killed: int, model: dict[str, Any]
) -> None:
    with rollout(client, run, tmp_path):
        ranks = [ensemble.start(index, steps=200, **model) for index in (0, 1)]
        await_step(client, run, 5)
        ranks[killed].process.send_signal(signal.SIGKILL)
        assert ranks[killed].process.wait(10) == -signal.SIGKILL
        code, said = ranks[1 - killed].ended()
        assert code == 1 and json.loads(said)["kind"] == "RoleDied", (said, ensemble.logs())
        step = max(record["step"] for record in records(client, run, "step"))
        again = [ensemble.start(index, steps=step + 3, **model) for index in (1, 0)]
        assert [rank.ended() for rank in again] == [(0, ""), (0, "")], ensemble.logs()
    (final,) = records(client, run, "final")
    assert (final["step"], final["groups_trained"], final["groups_lost"]) == (step + 3, 2 * (step + 3), 0)
    if model:
        assert_whole_adapter(tmp_path)


def assert_whole_adapter(folder: Path) -> None:
    """The leader publishes an adapter alone, as the engines read it from one file."""
    published = max((folder / "weights").iterdir())
    files = sorted(file.name for file in published.iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    adapter = load_file(published / "adapter_model.safetensors")
    assert any("lora_B" in name and weight.any() for name, weight in adapter.items())
    assert_same(adapter, load_file(folder / "model" / "adapter_model.safetensors"))


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_checkpoint_of_step_0_is_one(run: str, tmp_path: Path) -> None:
    """As a run leaves it that was drained before its first step, under the name that its weights had by then."""
    settings = settings_of(run, tmp_path)
    pupil = Pupil(settings, lambda position: position)
    pupil.follow(7, [])
    store = settings.checkpoints()
    store.save(pupil.snapshot(pupil.weights(), trained=[], epoch=1), permit=lambda: None, done=lambda: None)
    store.wait()
    assert [Shadow(settings, ALONE, step=step).version for step in (0, None)] == [7, 0]


def test_a_rank_begins_only_where_its_leader_does(
    client: Client, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = SimpleNamespace(company=SimpleNamespace(orders=SimpleNamespace(take=lambda: Order("learn", {}))))
    monkeypatch.setattr(follower, "follow", lambda *_, **__: ranks)
    with pytest.raises(ValueError, match="ordered 'learn' before it had begun"):
        Follower(settings_of(run, tmp_path), client, 1).run()
