"""The learner on a real broker, with a tiny model; a thread completes prompts in the rollout workers' stead."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import ModelError, TrainingError
from areal.broker.lane import Lane
from areal.broker.tickets import Tickets
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory
from areal.broker.transport import SharedDirectory
from areal.broker.weights import WeightStore
from areal.learner.algorithm.config import AlgorithmConfig
from areal.learner.archive import open_best, open_weights
from areal.learner.best import ranking
from areal.learner.checkpoint import CheckpointStore
from areal.learner.config import (
    CheckpointConfig,
    DatasetConfig,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    StalenessConfig,
)
from areal.learner.dataset import Dataset
from areal.learner.learner import Learner
from areal.learner.pupil import Pupil
from areal.learner.ranks import ALONE
from areal.learner.recording import Recording
from areal.learner.replay import Replay
from areal.learner.settings import LearnerSettings
from areal.learner.shards import Shards
from areal.learner.token_policy import TokenPolicy
from areal.learner.trainer import Taken

from .test_trainer import VOCAB, save_tiny_llama

BROKER = BrokerConfig(lease_s=60.0)
NO_EVALUATION = EvaluationConfig(every_steps=0)


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
        algorithm=AlgorithmConfig(),
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


def with_unknown_token(group: Group) -> Group:
    group.trajectories[-1].tokens[-1] = VOCAB
    return group


def of_images(group: Group) -> Group:
    latents, timesteps, logprobs = np.zeros((2, 4), np.float16), np.array([999, 499], np.int32), np.zeros(1, np.float32)
    image = DenoisingTrajectory(latents, timesteps, logprobs, 0, {}, guidance=1.0, seed=0, reward=1.0)
    return Group(group.prompt_id, (image,), "w")


@contextmanager
def rollout(
    client: Client,
    run: str,
    folder: Path,
    *,
    spoils: Callable[[int], bool] = lambda _: False,
    spoilt: Callable[[Group], Group] = with_unknown_token,
) -> Iterator[None]:
    """Completes the prompts of both lanes under the newest weights; `spoils` names those whose groups are `spoilt`."""
    lanes = [Tickets(client, run, name, BROKER) for name in ("train", "eval")]
    store = WeightStore(client, run, SharedDirectory(folder / "weights"))
    over = threading.Event()
    rng = np.random.default_rng(0)

    def serve() -> None:
        while not over.is_set():
            latest = store.latest()
            for tickets in lanes:
                for lease in tickets.lease("w", count=4, timeout_s=0) if latest else []:
                    while latest is None or latest.version < lease.prompt.min_version:
                        latest = store.latest()
                    group = answer(lease.prompt, latest.version, rng)
                    if tickets is lanes[0] and spoils(lease.prompt.id):
                        group = spoilt(group)
                    tickets.complete(lease, group)
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


def abandon(learner: Learner, *, after: int) -> None:
    """Take so many steps, and leave the learner as a kill would: what has been written stays, nothing else follows."""
    learner._begin()
    for _ in range(after):
        assert learner._one_step()
    leave(learner)


def await_answers(client: Client, run: str) -> None:
    """Until every prompt that has been issued is answered: by the versions there were, not by those to come."""
    lane = Lane(client, run, "train")
    deadline = time.monotonic() + 10
    while lane.depth().prompts:
        assert time.monotonic() < deadline, lane.depth()
        time.sleep(0.005)


def leave(learner: Learner) -> None:
    learner._keeper.wait()
    learner._publisher.wait()
    learner._source.close()
    learner._evaluator.close()


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
        "groups_filtered": 0,
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
    store = WeightStore(client, run, SharedDirectory(tmp_path / "weights"))
    latest = store.latest()
    assert latest is not None and latest.version == 6
    assert store.fetch(latest) == tmp_path / "weights" / latest.name
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert (tmp_path / "model" / "config.json").is_file()
    assert Lane(client, run, "train").depth().groups == 0


def test_weights_are_archived_between_checkpoints_too(client: Client, run: str, tmp_path: Path) -> None:
    settings = settings_of(run, tmp_path, steps=6)
    checkpoint = CheckpointConfig(every_steps=4, keep=1, archive_every_steps=2)
    settings = dataclasses.replace(settings, checkpoint=checkpoint, evaluation=NO_EVALUATION)
    with rollout(client, run, tmp_path):
        Learner(settings, client).run()
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["archive", "step-00000006"]
    kept = {step: open_weights(checkpoints, step) for step in (2, 4, 6)}
    checkpoint = CheckpointStore(checkpoints, keep=1).load(6)
    last = checkpoint.read("weights")
    name = "model.norm.weight"
    assert kept[6].read(name).equal(last[name]) and not kept[2].read(name).equal(kept[4].read(name))
    archived = [
        json.loads((folder / "state.json").read_text()) for folder in sorted((checkpoints / "archive").iterdir())
    ]
    assert [(state["step"], state["version"]) for state in archived] == [(2, 2), (4, 4), (6, 6)]


def test_the_best_weights_are_kept_over_a_death(client: Client, run: str, tmp_path: Path) -> None:
    """Each evaluation's weights are put aside when it begins: those of the round that a death cut off are swept."""
    settings = dataclasses.replace(settings_of(run, tmp_path), checkpoint=CheckpointConfig(every_steps=2, best=2))
    checkpoints, cut_off = tmp_path / "checkpoints", tmp_path / "checkpoints" / ".1.candidate"
    cut_off.mkdir(parents=True)
    with rollout(client, run, tmp_path):
        abandon(Learner(settings, client), after=3)
        assert not cut_off.exists()
        Learner(settings, client).run()
    evals = {record["step"]: record["accuracy"] for record in records(client, run, "eval")}
    wanted = sorted(evals, key=lambda step: (-evals[step], step))[:2]
    assert 6 in evals and [(each.step, each.score) for each in ranking(checkpoints)] == [
        (step, evals[step]) for step in wanted
    ]
    assert not list(checkpoints.glob(".*"))
    best, name = open_best(checkpoints), "model.norm.weight"
    assert best.step == wanted[0] and best.names() == open_weights(checkpoints, 6).names()
    if 6 in wanted:
        kept = Shards(checkpoints / "best" / "step-00000006" / "weights")
        assert kept.read(name).equal(open_weights(checkpoints, 6).read(name))


def test_a_score_without_all_its_answers_is_not_judged(client: Client, run: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(settings_of(run, tmp_path), checkpoint=CheckpointConfig(best=1))
    learner, score = Learner(settings, client), {"kind": "eval", "step": 0, "accuracy": 1.0}
    learner._begin()
    learner._keeper.put_aside(learner._copied_weights())
    learner._report_eval(score | {"unanswered": 2})
    assert not ranking(tmp_path / "checkpoints")
    assert "2 held-out rows came back unanswered" in records(client, run, "event")[-1]["text"]
    learner._report_eval(score | {"unanswered": 0})
    assert [each.score for each in ranking(tmp_path / "checkpoints")] == [1.0]
    leave(learner)


def test_a_learner_that_dies_is_followed_by_one_that_counts_nothing_twice(
    client: Client, run: str, tmp_path: Path
) -> None:
    with rollout(client, run, tmp_path):
        abandon(Learner(settings_of(run, tmp_path), client), after=3)  # with a checkpoint of step 2 behind it
        Learner(settings_of(run, tmp_path), client).run()
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"]) == (12, 0)
    steps = records(client, run, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 3, 4, 5, 6]
    surviving = [*steps[:2], *steps[3:]]
    assert sorted(number for record in surviving for number in record["prompt_ids"]) == list(range(12))
    assert [record["version"] for record in steps] == [1, 2, 3, 5, 6, 7, 8]
    assert steps[2]["epoch"] < steps[3]["epoch"]


def test_a_drained_run_goes_on_where_it_stopped(client: Client, run: str, tmp_path: Path) -> None:
    bulletin = Bulletin(client, run)
    with rollout(client, run, tmp_path):
        learner = Learner(settings_of(run, tmp_path, steps=500), client)
        thread = threading.Thread(target=learner.run)
        thread.start()
        deadline = time.monotonic() + 20
        while learner._pupil.step < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        bulletin.keep_order(DRAIN)
        thread.join(timeout=20)
        assert not thread.is_alive()
        drained = records(client, run, "final")[-1]
        assert not drained["finished"] and drained["step"] >= 3 and drained["groups_lost"] == 0
        assert not (tmp_path / "model").exists()
        bulletin.keep_order(RUN)
        Learner(settings_of(run, tmp_path, steps=drained["step"] + 2), client).run()
    final = records(client, run, "final")[-1]
    assert final["finished"] and final["step"] == drained["step"] + 2
    assert final["groups_trained"] == 2 * final["step"]
    assert final["groups_lost"] == 0
    steps = records(client, run, "step")
    assert [record["step"] for record in steps] == list(range(1, final["step"] + 1))
    assert steps[drained["step"]]["version"] == drained["version"] + 2  # published above the last, then a step
    assert all(record["tokens_too_old"] == 0 and record["staleness_max"] <= 2 for record in steps)
    trained = [number for record in steps for number in record["prompt_ids"]]
    assert len(trained) == len(set(trained)) == final["groups_trained"]
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    state = json.loads((newest / "state.json").read_text())
    assert sum(end - start for start, end in state["trained"]) == final["groups_trained"]
    assert (state["epoch"], state["version"]) == (steps[-1]["epoch"], final["version"])


def test_groups_that_come_again_after_a_long_way_keep_their_age(client: Client, run: str, tmp_path: Path) -> None:
    """It dies at step 7 with a checkpoint of step 4, further behind than η = 2: by their versions alone the groups
    of steps 5 to 7, sampled by versions up to 6 and taken again at 8 and above, would be up to 6 too old."""
    settings = dataclasses.replace(
        settings_of(run, tmp_path, steps=12), checkpoint=CheckpointConfig(every_steps=4), evaluation=NO_EVALUATION
    )
    with rollout(client, run, tmp_path):
        abandon(Learner(settings, client), after=7)
        await_answers(client, run)
        Learner(settings, client).run()
    steps = records(client, run, "step")
    assert [(record["step"], record["version"]) for record in steps] == [
        *((i, i) for i in range(1, 8)),
        *((i, i + 4) for i in range(5, 13)),  # 4 was published again as 8
    ]
    again = steps[7:10]
    assert sorted(number for record in again for number in record["prompt_ids"]) == list(range(8, 14))
    assert [record["prompt_ids"] for record in again] == [record["prompt_ids"] for record in steps[4:7]]
    for name in ("staleness_max", "staleness_mean", "tokens_trained"):
        assert [record[name] for record in again] == [record[name] for record in steps[4:7]], name
    assert all(record["tokens_too_old"] == 0 and record["staleness_max"] <= 2 for record in steps)
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"]) == (24, 0)


def test_groups_keep_their_age_over_two_deaths(client: Client, run: str, tmp_path: Path) -> None:
    """The first learner dies at step 7 and the second at 9, each a checkpoint every 4 steps: groups of the first that
    no one has trained on are still there for the third."""
    settings = dataclasses.replace(
        settings_of(run, tmp_path, steps=12), checkpoint=CheckpointConfig(every_steps=4), evaluation=NO_EVALUATION
    )
    with rollout(client, run, tmp_path):
        for steps in (7, 5):
            abandon(Learner(settings, client), after=steps)
            await_answers(client, run)
        Learner(settings, client).run()
    steps = records(client, run, "step")
    assert [(record["step"], record["version"]) for record in steps] == [
        *((i, i) for i in range(1, 8)),
        *((i, i + 4) for i in range(5, 10)),  # 4 was published again as 8
        *((i, i + 6) for i in range(9, 13)),  # and 8, which had been 12, as 14
    ]
    assert all(record["tokens_too_old"] == 0 and record["staleness_max"] <= 2 for record in steps)


def test_what_an_empty_redis_has_forgotten_is_not_issued_again(client: Client, run: str, tmp_path: Path) -> None:
    """The checkpoint knows of 8 groups, the new Redis (here: another run in it) of nothing."""
    with rollout(client, run, tmp_path):
        abandon(Learner(settings_of(run, tmp_path), client), after=4)
    fresh = f"{run}-fresh"
    assert Lane(client, fresh, "train").depth().issued == 0
    issued: list[int] = []

    def noted(number: int) -> bool:
        issued.append(number)
        return False

    with rollout(client, fresh, tmp_path, spoils=noted):
        Learner(settings_of(fresh, tmp_path), client).run()
    assert issued == [8, 9, 10, 11]
    steps = records(client, fresh, "step")
    assert [record["step"] for record in steps] == [5, 6]
    assert sorted(number for record in steps for number in record["prompt_ids"]) == [8, 9, 10, 11]
    assert all(record["tokens_too_old"] == 0 for record in steps)
    assert steps[0]["epoch"] > records(client, run, "step")[-1]["epoch"]
    (final,) = records(client, fresh, "final")
    assert (final["groups_trained"], final["groups_lost"], final["outstanding"]) == (12, 0, 0)
    assert Lane(client, fresh, "train").depth().issued == 12


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (with_unknown_token, f"has token {VOCAB}, the vocabulary only {VOCAB} of them"),
        (of_images, "was answered with images, and this policy learns from tokens"),
    ],
)
def test_groups_that_do_not_fit_the_model_are_dead_lettered_and_training_goes_on(
    client: Client, run: str, tmp_path: Path, spoilt: Callable[[Group], Group], says: str
) -> None:
    with rollout(client, run, tmp_path, spoils=lambda number: number in (0, 2, 6, 9), spoilt=spoilt):
        Learner(settings_of(run, tmp_path), client).run()
    steps = records(client, run, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    trained = [number for record in steps for number in record["prompt_ids"]]
    assert sorted(trained) == [1, 3, 4, 5, 7, 8, *range(10, 16)], "only what does not fit is left out"
    letters = DeadLetters(client, run, "train").list()
    assert sorted(letter.position for letter in letters) == [0, 2, 6, 9]
    assert all(says in letter.cause for letter in letters)
    told = [record["text"] for record in records(client, run, "event") if record["level"] == "error"]
    assert len(told) == 4 and all(says in text for text in told)
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"], final["dead_letters"]) == (12, 0, 4)
    assert final["outstanding"] == 0


def spoil_weights(learner: Learner) -> None:
    with torch.no_grad():
        next(learner._pupil._policy.parameters()).fill_(float("nan"))


def test_three_batches_in_a_row_without_a_finite_loss_end_the_learner(client: Client, run: str, tmp_path: Path) -> None:
    learner = Learner(settings_of(run, tmp_path), client)
    with (
        rollout(client, run, tmp_path),
        pytest.raises(TrainingError, match=r"the loss is nan; .*; 3 batches in a row were like that"),
    ):
        learner._begin()
        assert learner._one_step()
        spoil_weights(learner)
        while True:
            assert learner._one_step()
    leave(learner)
    assert [record["prompt_ids"] for record in records(client, run, "step")] == [[0, 1]]
    letters = DeadLetters(client, run, "train").list()
    assert len(letters) == 4 and all("the loss is nan" in letter.cause for letter in letters)
    told = [record["text"] for record in records(client, run, "event") if record["level"] == "error"]
    assert len(told) == 2 and "2 groups are dead-lettered (prompts 2, 3): the loss is nan" in told[0]


def test_each_refused_group_is_dead_lettered_with_its_own_cause(
    client: Client, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(settings_of(run, tmp_path, steps=1, groups_per_step=3), client)
    take = learner._pupil._trainer.step
    refused = {0: "the loss is nan", 2: "the gradient's norm is inf"}
    monkeypatch.setattr(
        learner._pupil._trainer, "step", lambda *given, **named: Taken(take(*given, **named).measured, refused)
    )
    with rollout(client, run, tmp_path):
        learner.run()
    letters = {letter.position: letter.cause for letter in DeadLetters(client, run, "train").list()}
    assert letters == refused


def refusing(learner: Learner, monkeypatch: pytest.MonkeyPatch, *places: Sequence[int]) -> None:
    """Has the steps refuse the groups at these places, the last of them for ever."""
    take, left = learner._pupil._trainer.step, list(places)

    def step(*given: Any, **named: Any) -> Taken:
        refused = left.pop(0) if len(left) > 1 else left[0]
        return Taken(take(*given, **named).measured, dict.fromkeys(refused, "the loss is nan"))

    monkeypatch.setattr(learner._pupil._trainer, "step", step)


def test_steps_that_refuse_most_of_their_groups_end_the_learner(
    client: Client, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three in a row: the second of these does not count, as it learns from two of three."""
    learner = Learner(settings_of(run, tmp_path, groups_per_step=3), client)
    refusing(learner, monkeypatch, [0, 1], [0], [0, 1])
    with (
        rollout(client, run, tmp_path),
        pytest.raises(TrainingError, match=r"the loss is nan; 3 batches in a row were like that"),
    ):
        learner.run()
    leave(learner)
    counted = [(record["step"], record["groups_refused"]) for record in records(client, run, "step")]
    assert counted == [(1, 2), (2, 1), (3, 2), (4, 2)]


def test_steps_that_refuse_a_group_go_on_and_count_it(
    client: Client, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(settings_of(run, tmp_path), client)
    refusing(learner, monkeypatch, [1])
    with rollout(client, run, tmp_path):
        learner.run()
    steps = records(client, run, "step")
    assert [(len(record["prompt_ids"]), record["groups_refused"]) for record in steps] == [(1, 1)] * 6
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["dead_letters"], final["groups_lost"]) == (6, 6, 0)


def without_variance(group: Group) -> Group:
    for trajectory in group.trajectories:
        object.__setattr__(trajectory, "reward", 1.0)
    return group


def test_groups_that_teach_nothing_are_replaced(client: Client, run: str, tmp_path: Path) -> None:
    replace = AlgorithmConfig.model_validate({"filters": {"constant": "replace"}})
    settings = dataclasses.replace(settings_of(run, tmp_path), algorithm=replace, evaluation=NO_EVALUATION)
    with rollout(client, run, tmp_path, spoils=lambda number: number % 3 == 0, spoilt=without_variance):
        abandon(Learner(settings, client), after=3)  # with a checkpoint of step 2 behind it
        Learner(settings, client).run()
    steps = records(client, run, "step")
    assert all(len(record["prompt_ids"]) == 2 and record["groups_without_variance"] == 0 for record in steps)
    for record in steps:  # the reward is of all that came; that of the groups passed over is 1
        passed = record["groups_filtered"]
        assert record["reward_mean"] == pytest.approx((2 * record["reward_learned_mean"] + passed) / (2 + passed))
    trained = [number for record in [*steps[:2], *steps[3:]] for number in record["prompt_ids"]]
    assert len(trained) == len(set(trained)) == 12 and not any(number % 3 == 0 for number in trained)
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"], final["outstanding"]) == (12, 0, 0)
    assert final["groups_filtered"] >= 5


def test_a_run_whose_groups_all_teach_nothing_goes_on_and_says_so(client: Client, run: str, tmp_path: Path) -> None:
    replace = AlgorithmConfig.model_validate({"filters": {"constant": "replace", "max_replaced": 2}})
    settings = dataclasses.replace(settings_of(run, tmp_path, steps=2), algorithm=replace, evaluation=NO_EVALUATION)
    learner = Learner(settings, client)
    with rollout(client, run, tmp_path, spoils=lambda number: True, spoilt=without_variance):
        thread = threading.Thread(target=learner.run, daemon=True)
        thread.start()
        thread.join(timeout=20)
        if thread.is_alive():
            Bulletin(client, run).keep_order(DRAIN)
            pytest.fail("no step was taken")
    steps = records(client, run, "step")
    assert [(record["groups_filtered"], record["groups_without_variance"]) for record in steps] == [(4, 2), (4, 2)]
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_filtered"], final["groups_lost"]) == (4, 8, 0)
    told = [record["text"] for record in records(client, run, "event") if record["level"] == "warning"]
    assert len(told) == 2 and "teaches nothing" in told[0]


def test_redis_does_not_fill_with_groups_that_teach_nothing(client: Client, run: str, tmp_path: Path) -> None:
    """The first 60 teach nothing. B = 2 and a checkpoint every 2 steps: more than 8 of them without one make one, at
    step 0 and within the step, and the learner dies there."""
    replace = AlgorithmConfig.model_validate({"filters": {"constant": "replace", "max_replaced": 100}})
    settings = dataclasses.replace(settings_of(run, tmp_path), algorithm=replace, evaluation=NO_EVALUATION)
    held, lane = [0], Lane(client, run, "train")

    def spoils(number: int) -> bool:
        held.append(lane.depth().groups)
        return number < 60

    first = Learner(settings, client)
    first._draining = lambda: len(first._source.ledger) > 20  # type: ignore[method-assign]
    with rollout(client, run, tmp_path, spoils=spoils, spoilt=without_variance):
        first._begin()
        assert not first._one_step()
        leave(first)
        snapshot = CheckpointStore(tmp_path / "checkpoints", keep=2).load_latest()
        assert snapshot is not None and snapshot.state.step == 0
        assert 8 < snapshot.state.filtered == sum(end - start for start, end in snapshot.state.trained)
        Learner(settings, client).run()
    assert max(held) <= 2 * (8 + 2) + 6 + 2, "of two checkpoints, outstanding, and of the batch at hand"
    steps = records(client, run, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    trained = [number for record in steps for number in record["prompt_ids"]]
    assert sorted(trained) == list(range(60, 72))
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_filtered"], final["groups_lost"]) == (12, 60, 0)
    assert final["outstanding"] == 0 and lane.depth().groups == 0


def test_rows_that_are_always_answered_rightly_are_issued_no_more(client: Client, run: str, tmp_path: Path) -> None:
    """Two of eight rows are: after their first answers they are passed over, over a death too."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(8)))
    source = DatasetConfig(source=str(rows), eval_size=0)
    identity = Dataset(source).identity
    solved = AlgorithmConfig.model_validate({"filters": {"solved": {"min_answers": 3, "retry_epochs": 0}}})
    settings = dataclasses.replace(
        settings_of(run, tmp_path, steps=16), dataset=source, algorithm=solved, evaluation=NO_EVALUATION
    )
    with rollout(client, run, tmp_path, spoils=lambda number: identity(number) in (1, 5), spoilt=without_variance):
        abandon(Learner(settings, client), after=9)  # with a checkpoint of step 8 behind it
        Learner(settings, client).run()
    records_ = records(client, run, "step")
    steps = [*records_[:8], *records_[9:]]
    trained = [number for record in steps for number in record["prompt_ids"]]
    assert len(trained) == len(set(trained)) == 32
    assert all(identity(number) not in (1, 5) for number in trained if number >= 16), "both were known by then"
    assert max(trained) > 32
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"], final["outstanding"]) == (32, 0, 0)
    assert final["groups_filtered"] >= 4


def test_a_critic_is_resumed_with_its_policy(client: Client, run: str, tmp_path: Path) -> None:
    gae = AlgorithmConfig.model_validate({"advantage": {"name": "gae", "critic": {"optimizer": {"lr": 1e-3}}}})
    settings = dataclasses.replace(settings_of(run, tmp_path), algorithm=gae, evaluation=NO_EVALUATION)
    with rollout(client, run, tmp_path):
        first = Learner(settings, client)
        abandon(first, after=2)
        second = Learner(settings, client)
        assert first._pupil._critic is not None and second._pupil._critic is not None
        left, right = first._pupil._critic.state(), second._pupil._critic.state()
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        assert left["weights.head.weight"].abs().max() > 0
        second.run()
    (final,) = records(client, run, "final")
    assert (final["groups_trained"], final["groups_lost"]) == (12, 0)


def test_a_model_that_gives_copies_of_its_weights_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some mixtures of experts do, whose checkpoints have another form than their parameters."""
    settings = settings_of("r", tmp_path)
    store, pupil = CheckpointStore(tmp_path / "checkpoints", keep=1), Pupil(settings, lambda position: position)
    store.save(pupil.snapshot(pupil.weights(), trained=[], epoch=0), permit=lambda: None, done=lambda: None)
    store.wait()
    assert Pupil(settings, lambda position: position, store.load_latest()).step == 0
    monkeypatch.setattr(TokenPolicy, "weights", lambda policy: ALONE.owned(policy._causal_lm.state_dict()))
    with pytest.raises(ModelError, match=r"keeps its weights in another form than its checkpoint: 'model\."):
        Pupil(settings, lambda position: position, store.load_latest())


def replayed(settings: LearnerSettings, folder: Path, start: int = 0) -> tuple[CheckpointStore, list[dict[str, Any]]]:
    """What a replay of the run leaves behind: its checkpoints and its records."""
    told: list[dict[str, Any]] = []
    replay = Replay(settings, settings.checkpoint, run=settings.directory, folder=folder, start=start)
    replay.run(settings.learner.steps, told.append)
    return CheckpointStore(folder / "checkpoints", keep=2), told


def assert_same_end(learned: CheckpointStore, again: CheckpointStore) -> None:
    left, right = learned.load_latest(), again.load_latest()
    assert left is not None and right is not None
    assert left.state.estimator == right.state.estimator and left.state.version == right.state.version
    assert left.state.scale == right.state.scale and left.parts() == right.parts()
    for name in left.parts():
        ours, theirs = left.read(name), right.read(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("advantage", ["grpo", "per_prompt", "gae"])
def test_what_was_recorded_makes_the_same_weights_again(
    client: Client, run: str, tmp_path: Path, advantage: str
) -> None:
    """Over a death, after which lessons of the lineage that is lost are replaced; spoilt groups are none of them."""
    settings = dataclasses.replace(
        settings_of(run, tmp_path, record=True, optimizer={"lr": 1e-3}),
        algorithm=AlgorithmConfig.model_validate({"advantage": {"name": advantage}}),
        evaluation=NO_EVALUATION,
    )
    with rollout(client, run, tmp_path, spoils=lambda number: number % 5 == 4):
        abandon(Learner(settings, client), after=3)  # with a checkpoint of step 2 behind it
        second = Learner(settings, client)
        second._keeper.sweep()
        assert Recording(tmp_path / "groups").steps() == [1, 2]
        second.run()
    steps = records(client, run, "step")
    surviving = [*steps[:2], *steps[3:]]
    assert Recording(tmp_path / "groups").steps() == [1, 2, 3, 4, 5, 6]
    again, told = replayed(settings, tmp_path / "again")
    assert_same_end(CheckpointStore(tmp_path / "checkpoints", keep=2), again)
    for name in ("step", "version", "prompt_ids", "loss", "grad_norm", "lr", "staleness_mean", "tokens_trained"):
        assert [record[name] for record in told] == [record[name] for record in surviving], name
    from_checkpoint, _ = replayed(settings, tmp_path / "from-4", start=4)
    assert_same_end(CheckpointStore(tmp_path / "checkpoints", keep=2), from_checkpoint)


def test_nothing_is_recorded_unless_wanted(client: Client, run: str, tmp_path: Path) -> None:
    with rollout(client, run, tmp_path):
        Learner(dataclasses.replace(settings_of(run, tmp_path, steps=1), evaluation=NO_EVALUATION), client).run()
    assert not (tmp_path / "groups").exists()
