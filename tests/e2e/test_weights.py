"""`areal run` with the weights going through Redis."""

import pytest

from .conftest import CONFIGS, StartRun

pytestmark = pytest.mark.slow


def test_weights_through_redis_need_no_shared_folder(start_run: StartRun) -> None:
    run = start_run(
        CONFIGS / "quickstart.yaml",
        "broker.weights=redis",
        "learner.steps=6",
        "dataset.eval_size=32",
        "evaluation.every_steps=0",
    )
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert run.summary["steps"] == 6
    assert run.summary["weight_updates"] >= 3
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    assert not (run.directory / "weights").exists()
    assert "passing over" not in run.logs()
    run.await_silence(20)
