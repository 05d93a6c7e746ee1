"""`areal run`: trains, survives, drains, resumes, and leaves nothing behind however it ends."""

import os
import signal

import pytest

from .conftest import CONFIGS, Run, StartRun

pytestmark = pytest.mark.slow

QUICKSTART = CONFIGS / "quickstart.yaml"
SHORT = ("dataset.eval_size=32", "evaluation.every_steps=0")
B = 16


def test_the_quickstart_learns_to_write_the_trace(start_run: StartRun) -> None:
    run = start_run(QUICKSTART)
    assert run.wait(400) == 0, f"{run.text}\n{run.logs()}"
    summary = run.summary
    assert summary["eval_first"] < 0.5
    assert summary["eval_last"] >= 0.9
    assert summary["eval_length_first"] < 25
    assert summary["eval_length_last"] >= 34
    assert summary["groups_lost"] == summary["groups_trained_twice"] == summary["dead_letters"] == 0
    assert summary["groups_trained"] == 60 * B
    assert summary["tokens_too_old"] <= 0.02 * summary["tokens_trained"]
    assert summary["staleness_max"] <= 4 or summary["tokens_too_old"] > 0
    assert summary["weight_updates"] >= 10
    assert (run.directory / "reward.png").stat().st_size > 10_000
    assert (run.directory / "model" / "model.safetensors").exists()
    assert "accuracy" in run.text and "Traceback" not in run.text
    run.await_silence(20)


def test_staleness_zero_is_the_synchronous_algorithm(start_run: StartRun) -> None:
    run = start_run(CONFIGS / "count.yaml", "staleness.max=0", "learner.steps=4", *SHORT)
    assert run.wait(300) == 0, f"{run.text}\n{run.logs()}"
    assert [record["staleness_max"] for record in run.steps()] == [0, 0, 0, 0]
    assert all(abs(record["behaviour_weight_mean"] - 1) < 1e-4 for record in run.steps())
    assert sorted(prompt for record in run.steps() for prompt in record["prompt_ids"]) == list(range(4 * B))
    run.await_silence(20)


def test_a_run_survives_its_engine_and_its_driver_and_goes_on_where_it_was(start_run: StartRun) -> None:
    """One run through all of it: engine killed; Ctrl-C and resumed; driver killed and resumed, at last with two workers."""
    frequent = ("checkpoint.every_steps=3", *SHORT)
    run = start_run(QUICKSTART, "learner.steps=1000", *frequent)
    run.await_step(4, timeout_s=200)
    os.kill(engine_of(run), signal.SIGKILL)
    run.await_step(newest_step(run) + 4, timeout_s=200)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    assert run.wait(90) == 130, f"{run.text}\n{run.logs()}"
    assert "the engine died" in run.text and "draining" in run.text
    newest = max((run.directory / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{run.summary['steps']:08d}"
    assert run.summary["groups_lost"] == run.summary["groups_trained_twice"] == 0
    stopped_at = run.summary["steps"]
    assert run.summary["tokens_too_old"] <= 0.05 * run.summary["tokens_trained"]
    run.await_silence(20)

    second = start_run(QUICKSTART, "learner.steps=1000", *frequent)
    second.await_step(newest_step(run) + 4, timeout_s=200)
    assert f"resumed from the checkpoint of step {stopped_at}" in second.text
    second.process.kill()
    second.process.wait()
    second.await_silence(30)

    steps = newest_step(second) + 3
    third = start_run(QUICKSTART, f"learner.steps={steps}", "rollout.workers=2", *frequent)
    assert third.wait(300) == 0, f"{third.text}\n{third.logs()}"
    assert third.summary["groups_trained"] == steps * B
    assert third.summary["groups_lost"] == third.summary["groups_trained_twice"] == third.summary["dead_letters"] == 0
    assert_each_prompt_counts_once(third)
    third.await_silence(20)


def assert_each_prompt_counts_once(run: Run) -> None:
    """By the record of steps alone: in the lineage that survived, no prompt was learned from twice."""
    surviving: dict[int, list[int]] = {}
    for record in run.steps():  # in the order of time: a step taken again follows, and replaces, the lost one
        surviving = {step: prompts for step, prompts in surviving.items() if step < record["step"]}
        surviving[record["step"]] = record["prompt_ids"]
    taken = [prompt for prompts in surviving.values() for prompt in prompts]
    assert len(taken) == len(set(taken)) == len(surviving) * B


def newest_step(run: Run) -> int:
    return int(run.steps()[-1]["step"])


def engine_of(run: Run) -> int:
    """vLLM's process."""
    return next(process.pid for process in run.alive() if process.name().startswith("VLLM::Engine"))
