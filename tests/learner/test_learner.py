"""The learner on a real broker, with a tiny model; a thread completes prompts in the rollout workers' stead."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.lane import Lane
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory
from areal.broker.weights import WeightStore, verify
from areal.learner.config import (
    CheckpointConfig,
    DatasetConfig,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    StalenessConfig,
)
from areal.learner.learner import Learner, LearnerSettings

from .test_trainer import VOCAB, save_tiny_llama

BROKER = BrokerConfig(lease_s=60.0)


def settings_of(run: str, folder: Path, **learner: Any) -> LearnerSettings:
    model = folder / "start"
    if not model.exists():
        save_tiny_llama(model)
    return LearnerSettings(
        run=run,
        directory=folder,
        model=ModelConfig(path=str(model)),
        dataset=DatasetConfig(source="sort", eval_size=4),
        learner=LearnerConfig(**{"steps": 6, "groups_per_step": 2, "take_timeout_s": 30} | learner),
        staleness=StalenessConfig(max=2),
        evaluation=EvaluationConfig(every_steps=3),
        checkpoint=CheckpointConfig(every_steps=2),
        broker=BROKER,
        group_size=3,
        temperature=1.0,
        seed=0,
    )


def answer(prompt: Prompt, version: int, rng: np.random.Generator) -> Group:
    """Tokens drawn evenly, which is about what a random model does."""
    trajectories = []
    for _ in range(prompt.group_size):
        length = int(rng.integers(2, 6))
        versions = np.array([NOT_AN_ACTION] * 2 + [version] * length, np.int32)
        logprobs = np.where(versions >= 0, -np.log(VOCAB), 0.0).astype(np.float32)
        tokens = rng.integers(0, VOCAB, 2 + length).astype(np.int32)
        reward = float(np.mean(tokens[2:] % 2 == 0))
        trajectories.append(TokenTrajectory(tokens, versions, logprobs, reward, {"even": reward}))
    return Group(prompt.id, tuple(trajectories), "w")


@contextmanager
def rollout(client: Client, run: str, folder: Path) -> Iterator[None]:
    """Completes the prompts of both lanes under the newest weights."""
    lanes = [Lane(client, run, name, BROKER) for name in ("train", "eval")]
    store = WeightStore(client, run, folder / "weights")
    over = threading.Event()
    rng = np.random.default_rng(0)

    def serve() -> None:
        while not over.is_set():
            latest = store.latest()
            for lane in lanes:
                for lease in lane.lease("w", count=4, timeout_s=0) if latest else []:
                    while latest is None or latest.version < lease.prompt.min_version:
                        latest = store.latest()
                    lane.complete(lease, answer(lease.prompt, latest.version, rng))
            time.sleep(0.005)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def records(client: Client, run: str, kind: str) -> list[dict[str, Any]]:
    return [record for record in Bulletin(client, run).read("0", timeout_s=0.01)[0] if record["kind"] == kind]


def test_a_run_from_its_start_to_its_end(client: Client, run: str, tmp_path: Path) -> None:
    with rollout(client, run, tmp_path):
        Learner(settings_of(run, tmp_path), client).run()
    (final,) = records(client, run, "final")
    del final["time"]
    assert final == {
        "kind": "final",
        "finished": True,
        "step": 6,
        "version": 6,
        "groups_trained": 12,
        "groups_trained_twice": 0,
        "groups_lost": 0,
        "dead_letters": 0,
        "outstanding": 0,
    }
    steps = records(client, run, "step")
    assert [(record["step"], record["version"]) for record in steps] == [(i, i) for i in range(1, 7)]
    assert sorted(number for record in steps for number in record["prompt_ids"]) == list(range(12))
    assert all(0 <= record["staleness_max"] <= 2 and record["tokens_too_old"] == 0 for record in steps)
    assert all(record["reward_parts"]["even"] == record["reward_mean"] for record in steps)
    assert records(client, run, "eval")[-1]["step"] == 6
    latest = WeightStore(client, run, tmp_path / "weights").latest()
    assert latest is not None and latest.version == 6
    verify(latest)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert (tmp_path / "model" / "config.json").is_file()
    assert Lane(client, run, "train", BROKER).depth().groups == 0


def test_a_learner_that_dies_is_followed_by_one_that_counts_nothing_twice(
    client: Client, run: str, tmp_path: Path
) -> None:
    with rollout(client, run, tmp_path):
        first = Learner(settings_of(run, tmp_path), client)
        first._publish_start()
        for _ in range(3):  # it dies with a checkpoint of step 2 behind it
            assert first._one_step()
        first._checkpoints.wait()
        first._publisher.wait()
        first._source.close()
        first._evaluator.close()
        Learner(settings_of(run, tmp_path), client).run()
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"], final["groups_trained_twice"]) == (12, 0, 0)
    steps = records(client, run, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 3, 4, 5, 6]
    surviving = [*steps[:2], *steps[3:]]
    assert sorted(number for record in surviving for number in record["prompt_ids"]) == list(range(12))
    assert [record["version"] for record in steps] == [1, 2, 3, 5, 6, 7, 8]
    assert steps[2]["epoch"] + 1 == steps[3]["epoch"]


def test_a_drained_run_goes_on_where_it_stopped(client: Client, run: str, tmp_path: Path) -> None:
    bulletin = Bulletin(client, run)
    with rollout(client, run, tmp_path):
        learner = Learner(settings_of(run, tmp_path, steps=500), client)
        thread = threading.Thread(target=learner.run)
        thread.start()
        deadline = time.monotonic() + 20
        while learner._step < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        bulletin.order(DRAIN)
        thread.join(timeout=20)
        assert not thread.is_alive()
        drained = records(client, run, "final")[-1]
        assert not drained["finished"] and drained["step"] >= 3 and drained["groups_lost"] == 0
        assert not (tmp_path / "model").exists()
        bulletin.order(RUN)
        Learner(settings_of(run, tmp_path, steps=drained["step"] + 2), client).run()
    final = records(client, run, "final")[-1]
    assert final["finished"] and final["step"] == drained["step"] + 2
    assert final["groups_trained"] == 2 * final["step"]
    assert (final["groups_lost"], final["groups_trained_twice"]) == (0, 0)
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert json.loads((newest / "state.json").read_text())["groups_counted"] == final["groups_trained"]
