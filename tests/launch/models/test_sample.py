"""`areal sample` and `areal export`, on the directory of a run that has trained an image policy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from areal.denoising.classes import ClassPipeline
from areal.launch.config import RunConfig, to_yaml
from areal.learner.checkpoint import CheckpointStore, LearnerState, Snapshot
from areal.learner.denoising_policy import DenoisingPolicy
from areal.learner.ranks import ALONE

from ...learner.images import LORA, flat, group, made, moved, save_tiny_pipeline
from ..conftest import Areal
from ..stage import make_directory


@pytest.fixture
def policy(here: Path) -> DenoisingPolicy:
    """runs/mine, whose adapter is that of the policy."""
    start, run = save_tiny_pipeline(here / "start"), here / "runs" / "mine"
    parts: dict[str, Any] = {
        "model": {"path": str(start), "lora": LORA.model_dump()},
        "denoising": {"steps": 4, "max_batch": 3},
        "dataset": {"source": "digits", "eval_size": 2},
        "rewards": {"functions": [{"name": "jpeg_compressibility"}]},
    }
    make_directory(run, config=to_yaml(RunConfig.model_validate({"run": "mine", **parts})))
    learned = moved(made(start))
    weights = ALONE.owned(learned.weights())
    store = CheckpointStore(run / "checkpoints", keep=1, archive_every=0)
    snapshot = Snapshot(LearnerState(7, 7, [], 1), weights, {}, {}, torch.get_rng_state())
    store.save(snapshot, permit=lambda: None, done=lambda: None)
    store.wait()
    return learned


def test_a_sheet_shows_before_and_now(policy: DenoisingPolicy, areal: Areal, here: Path) -> None:
    code, out, err = areal("sample", "mine", "--each", "2")
    assert (code, err) == (0, "")
    assert "step 7 of mine, before | now, a row each of '0', '1': runs/mine/sample-step-7.png" in out
    sheet = np.asarray(Image.open(here / "runs" / "mine" / "sample-step-7.png"))
    left, right = sheet[:, :130], sheet[:, 140:]
    assert left.shape == right.shape == (130, 130, 3)
    assert not np.array_equal(left, right)
    areal("sample", "mine", "--each", "2", "--output", "again.png")
    assert np.array_equal(sheet, np.asarray(Image.open(here / "again.png")))


def test_prompts_and_noise_can_be_chosen(policy: DenoisingPolicy, areal: Areal, here: Path) -> None:
    for seed in ("0", "5"):
        code, out, _ = areal(
            "sample", "mine", "--prompt", "3", "--each", "1", "--seed", seed, "--output", f"{seed}.png"
        )
        assert code == 0 and "a row each of '3'" in out
    first, second = (np.asarray(Image.open(here / f"{seed}.png")) for seed in ("0", "5"))
    assert first.shape == second.shape == (64, 138, 3) and not np.array_equal(first, second)


def test_what_cannot_be_drawn_is_refused(policy: DenoisingPolicy, areal: Areal) -> None:
    code, _, err = areal("sample", "mine", "--prompt", "a llama")
    assert code == 2 and "a row has the label None, and the model knows the classes 0 to 9" in err
    code, _, err = areal("sample", "mine", "--step", "5")
    assert code == 1 and "no weights of step 5" in err
    code, _, err = areal("sample", "mine", "--output", "nowhere/a.png")
    assert code == 2 and "--output: there is no folder nowhere" in err
    code, _, err = areal("merge", "mine", "--steps", "1,2")
    assert code == 2 and "areal merge: mine has trained the adapter of an image policy" in err
    code, _, err = areal("export", "mine", "--merged")
    assert code == 2 and "--merged: mine has trained the adapter of an image policy" in err


def test_the_adapter_is_exported_as_diffusers_loads_it(policy: DenoisingPolicy, areal: Areal, here: Path) -> None:
    code, out, _ = areal("export", "mine")
    assert code == 0 and "runs/mine/export-step-7/" in out
    diffusers_logging.set_verbosity_error()
    pipeline = ClassPipeline.from_pretrained(here / "start", local_files_only=True)
    pipeline.unet.load_lora_adapter(here / "runs" / "mine" / "export-step-7", prefix=None, use_safetensors=True)
    batch = flat(group(policy, size=2))
    _, time_M = policy._model.schedule.network_input(batch.latents, batch.levels)
    labels = torch.tensor([condition["label"] for condition in batch.conditions])
    with torch.no_grad():
        own, theirs = (
            net(batch.latents, time_M, class_labels=labels).sample for net in (policy._model.network, pipeline.unet)
        )
    assert torch.equal(own, theirs)
