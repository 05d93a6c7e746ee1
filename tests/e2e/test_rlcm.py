"""Image policies learn from their rewards: asynchronously, through a real Redis, at a staleness of two versions."""

import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from ..denoising.tiny import latent_consistency_pipeline, save_consistency_lora, xl_pipeline
from .conftest import CONFIGS, StartRun
from .outside import Outside
from .together import run_together

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("task", "begins", "reaches"),
    [("compress", (-0.78, -0.73), -0.5), ("incompress", (0.73, 0.78), 0.95), ("align", (0.75, 0.88), 0.97)],
)
def test_each_task_is_learned(
    task: str, begins: tuple[float, float], reaches: float, seed: int, redis_url: str, run: str, tmp_path: Path
) -> None:
    """Kilobytes of a JPEG, down or up, and p(class | image)."""
    seeds = (f"seed={seed}", f"dataset.seed={seed}")
    outcome = run_together(CONFIGS / f"rlcm_digits_{task}.yaml", redis_url, tmp_path, run, *seeds)
    steps, evals, (final,) = outcome.of("step"), outcome.of("eval"), outcome.of("final")
    assert begins[0] < evals[0]["accuracy"] < begins[1]
    assert evals[-1]["accuracy"] >= reaches
    assert max(step["staleness_max"] for step in steps) >= 2
    assert all(step["staleness_max"] <= 2 or step["tokens_too_old"] for step in steps), "and is not learned from"
    assert final["groups_lost"] == final["dead_letters"] == 0 and final["groups_trained"] == 10 * len(steps)
    assert steps[0]["staleness_max"] == 0 and steps[0]["kl_behaviour_prox"] < 0.02


REBEL = ("algorithm.objective.name=rebel", "algorithm.behaviour.action=off")


def test_a_regression_learns_a_task(redis_url: str, run: str, tmp_path: Path) -> None:
    """REBEL, at the η and the number of steps that are the configurations' own; without learning it stays at −0.75."""
    outcome = run_together(CONFIGS / "rlcm_digits_compress.yaml", redis_url, tmp_path, run, *REBEL)
    steps, evals, (final,) = outcome.of("step"), outcome.of("eval"), outcome.of("final")
    assert -0.78 < evals[0]["accuracy"] < -0.73
    assert evals[-1]["accuracy"] >= -0.6
    assert final["groups_lost"] == final["dead_letters"] == 0
    assert all(step["limited_fraction"] == step["clipped_fraction"] == 0 for step in steps)


def test_a_kl_term_holds_what_the_reward_does_not_ask_for(redis_url: str, run: str, tmp_path: Path) -> None:
    """At the same steps the images stay nearer to real ones and more various, and are still of their class."""
    last = {}
    for coefficient in (0.0, 0.1):
        option, key = f"algorithm.kl.coefficient={coefficient}", f"{run}-{coefficient}"
        evals = run_together(CONFIGS / "rlcm_digits_align.yaml", redis_url, tmp_path / key, key, option).of("eval")
        last[coefficient] = evals[-1]
    free, held = last[0.0], last[0.1]
    assert held["accuracy"] >= 0.97 and held["judge_accuracy"] >= max(0.95, free["judge_accuracy"] - 0.03)
    assert held["frechet"] < 0.6 * free["frechet"]
    assert held["diversity"] > free["diversity"] + 0.015


LCM = ("denoising.guidance=8", "denoising.wire=float16", "denoising.shared_noise=true", "denoising.trained_actions=2")
SDXL = ("denoising.consistency_lora={lora}", "algorithm.kl.coefficient=0.1", *REBEL)


@pytest.mark.parametrize(("kind", "options"), [("lcm", LCM), ("sdxl", SDXL)])
def test_models_of_prompts_are_trained_by_the_same_means(
    kind: str, options: tuple[str, ...], redis_url: str, run: str, tmp_path: Path
) -> None:
    """LCM_Dreamshaper_v7 and SDXL with lcm-lora in small: pipelines of the same parts, drawn at random."""
    model, lora = tmp_path / "model", tmp_path / "lora"
    (latent_consistency_pipeline() if kind == "lcm" else xl_pipeline()).save_pretrained(model)
    save_consistency_lora(xl_pipeline(), lora)
    overrides = [
        f"model.path={model}",
        "model.lora.targets=attention",
        f"dataset.source={CONFIGS / 'animals.jsonl'}",
        "dataset.eval_size=4",
        "evaluation.samples=2",
        "evaluation.every_steps=3",
        "evaluation.pictures=8",
        "evaluation.judge=null",
        "learner.steps=6",
        "learner.minibatches=1",
        *(option.format(lora=lora) for option in options),
    ]
    outcome = run_together(CONFIGS / "rlcm_digits_compress.yaml", redis_url, tmp_path / "run", run, *overrides)
    steps, (final,) = outcome.of("step"), outcome.of("final")
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert final["groups_lost"] == final["dead_letters"] == 0 and final["groups_trained"] == 60
    assert steps[0]["staleness_max"] == 0 and steps[0]["kl_behaviour_prox"] < (0.01 if kind == "lcm" else 1e-5)
    assert all(step["grad_norm"] > 0 for step in steps)
    with Image.open(tmp_path / "run" / "rlcm_digits_compress" / "pictures" / "step-000006.png") as grid:
        assert grid.mode == "RGB"


def test_a_run_of_images_survives_its_worker_and_shows_what_it_makes(start_run: StartRun) -> None:
    run = start_run(CONFIGS / "rlcm_digits_compress.yaml", "learner.steps=60", "rewards.workers=2")
    run.await_step(10, 120)
    os.kill(Outside(run).everybody()["rollout-0"].pid, signal.SIGKILL)
    assert run.wait(200) == 0, f"{run.text}\n{run.logs()}"
    summary = run.summary
    assert summary["groups_trained"] == 600 and summary["restarts"] == 1
    assert summary["groups_lost"] == summary["groups_trained_twice"] == summary["dead_letters"] == 0
    assert summary["eval_last"] > -0.5 > -0.7 > summary["eval_first"]
    assert summary["eval_judge_accuracy_first"] > 0.95 > summary["eval_judge_accuracy_last"]
    assert summary["eval_diversity_last"] < summary["eval_diversity_first"]
    grids = sorted(path.name for path in (run.directory / "pictures").glob("*.png"))
    assert grids == [f"step-{step:06d}.png" for step in (0, 20, 40, 60)]
    with Image.open(run.directory / "pictures" / grids[-1]) as grid:
        assert grid.size == (2 * (4 * 66 - 2) + 10, 10 * 66 - 2)
    assert b"eval/pictures" in b"".join(path.read_bytes() for path in (run.directory / "tensorboard").iterdir())
    assert (run.directory / "model" / "pytorch_lora_weights.safetensors").exists()
    run.await_silence(20)
