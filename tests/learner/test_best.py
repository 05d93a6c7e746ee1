"""Weights that are kept for their score."""

import json
import math
from pathlib import Path

import pytest
import torch

from areal.broker.errors import Fenced, ModelError
from areal.learner.archive import open_best, open_weights
from areal.learner.best import BestWeights, ranking
from areal.learner.checkpoint import CheckpointStore, LearnerState

from .test_checkpoint import names, save, snapshot


def made(folder: Path, *, keep: int = 2, epoch: int = 6) -> BestWeights:
    return BestWeights(CheckpointStore(folder, keep=2), folder, keep=keep, epoch=epoch, permit=lambda: None)


def evaluate(best: BestWeights, step: int, score: float | None) -> None:
    """A round on weights that are all `step`; without a score it comes to nothing."""
    best.put_aside(LearnerState(step, step + 3, [], 6), {"a": torch.full((2,), float(step))})
    if score is not None:
        best.judge(step, score)


def kept(folder: Path) -> list[tuple[int, float]]:
    return [(each.step, each.score) for each in ranking(folder)]


def test_the_best_stay_and_of_equal_ones_the_earlier(tmp_path: Path) -> None:
    best = made(tmp_path)
    for step, score, then in (
        (10, 0.5, [(10, 0.5)]),
        (20, 0.25, [(10, 0.5), (20, 0.25)]),
        (30, 0.25, [(10, 0.5), (20, 0.25)]),
        (40, 0.75, [(40, 0.75), (10, 0.5)]),
        (50, 0.5, [(40, 0.75), (10, 0.5)]),
        (60, math.nan, [(40, 0.75), (10, 0.5)]),
        (70, 0.625, [(40, 0.75), (70, 0.625)]),
    ):
        evaluate(best, step, score)
        assert kept(tmp_path) == then and names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == ["step-00000040", "step-00000070"]
    state = json.loads((tmp_path / "best" / "step-00000040" / "state.json").read_text())
    assert state.items() >= {"step": 40, "version": 43, "epoch": 6, "score": 0.75}.items()
    found = open_best(tmp_path)
    assert (found.step, found.score, found.read("a").tolist()) == (40, 0.75, [40.0, 40.0])
    assert open_weights(tmp_path, 70).read("a").tolist() == [70.0, 70.0]


def test_a_round_without_a_score_leaves_nothing(tmp_path: Path) -> None:
    best = made(tmp_path)
    evaluate(best, 10, None)
    evaluate(best, 20, 0.5)
    assert kept(tmp_path) == [(20, 0.5)] and open_best(tmp_path).read("a").tolist() == [20.0, 20.0]
    evaluate(best, 30, None)
    best._store.wait()
    assert names(tmp_path) == [".6.candidate", "best"]
    best.drop()
    assert names(tmp_path) == ["best"]
    best.judge(30, 0.9)
    assert kept(tmp_path) == [(20, 0.5)]


def test_what_a_learner_that_died_left_is_swept(tmp_path: Path) -> None:
    first = made(tmp_path)
    evaluate(first, 10, 0.5)
    evaluate(first, 20, None)
    first._store.wait()
    (tmp_path / "best" / ".replaced.step-00000005").mkdir()
    save(first._store, 20)
    assert names(tmp_path) == [".6.candidate", "best", "step-00000020"]
    latest = first._store.load_latest()
    assert latest is not None and latest.state.step == 20
    made(tmp_path, epoch=7).sweep()
    assert names(tmp_path) == ["best", "step-00000020"] and names(tmp_path / "best") == ["step-00000010"]


@pytest.mark.parametrize(("again", "then"), [(0.75, [(20, 0.75)]), (0.25, [(20, 0.25)])])
def test_a_step_that_is_evaluated_again_counts_as_it_was_then(
    tmp_path: Path, again: float, then: list[tuple[int, float]]
) -> None:
    evaluate(made(tmp_path, keep=1), 20, 0.5)
    evaluate(made(tmp_path, keep=1, epoch=9), 20, again)
    assert kept(tmp_path) == then


def test_a_step_that_is_worse_when_it_is_evaluated_again_goes(tmp_path: Path) -> None:
    best = made(tmp_path)
    for step, score in ((10, 0.5), (20, 0.75), (30, 0.25)):
        evaluate(best, step, score)
    evaluate(made(tmp_path, epoch=9), 20, 0.125)
    assert kept(tmp_path) == [(10, 0.5), (20, 0.125)]
    evaluate(made(tmp_path, keep=1, epoch=10), 20, 0.0)
    assert kept(tmp_path) == [(10, 0.5)]


def test_nothing_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    best = made(tmp_path, keep=0)
    evaluate(best, 10, 0.5)
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ModelError, match=r"no weights are kept in .*best: set checkpoint.best .* evaluation.every_steps"
    ):
        open_best(tmp_path)


def test_a_learner_that_leads_no_more_keeps_none(tmp_path: Path) -> None:
    evaluate(made(tmp_path, keep=1), 10, 0.5)

    def refuse() -> None:
        raise Fenced("epoch 6 is over")

    fenced = BestWeights(CheckpointStore(tmp_path, keep=2), tmp_path, keep=1, epoch=6, permit=refuse)
    with pytest.raises(Fenced):
        evaluate(fenced, 20, 0.75)
    assert kept(tmp_path) == [(10, 0.5)]


def test_a_score_that_cannot_be_read_is_the_worst(tmp_path: Path) -> None:
    best = made(tmp_path)
    evaluate(best, 10, 0.5)
    (tmp_path / "best" / "step-00000010" / "state.json").write_text("{")
    evaluate(best, 20, -3.0)
    assert kept(tmp_path) == [(20, -3.0), (10, -math.inf)]
    evaluate(best, 30, -4.0)
    assert kept(tmp_path) == [(20, -3.0), (30, -4.0)]


def test_weights_are_put_aside_while_the_same_step_is_saved(tmp_path: Path) -> None:
    best = made(tmp_path)
    best._store.save(snapshot(20), permit=lambda: None, done=lambda: None)
    evaluate(best, 20, 0.5)
    best._store.wait()
    assert names(tmp_path) == ["best", "step-00000020"] and kept(tmp_path) == [(20, 0.5)]
