"""A real language model on the same path: SmolLM2-135M-Instruct, LoRA."""

import json

import pytest

from .conftest import CONFIGS, StartRun


@pytest.mark.slow
def test_smollm2_takes_two_steps(start_run: StartRun) -> None:
    run = start_run(
        CONFIGS / "smollm2_arithmetic.yaml", "learner.steps=2", "learner.groups_per_step=3", "evaluation.every_steps=0"
    )
    assert run.wait(600) == 0, f"{run.text}\n{run.logs()}"
    first, second = run.steps()
    assert 0 < first["behaviour_weight_mean"] < 2 and second["version"] == 2
    assert second["tokens_trained"] > 3 * 8
    assert run.summary["groups_trained"] == 6
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == run.summary["dead_letters"] == 0
    adapter = json.loads((run.directory / "model" / "adapter_config.json").read_text())
    assert adapter["r"] == 16 and adapter["lora_alpha"] == 32
    run.await_silence(20)
