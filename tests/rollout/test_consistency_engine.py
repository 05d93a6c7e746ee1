import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from areal.broker.errors import EngineDied, EngineError
from areal.denoising.config import DenoisingConfig
from areal.learner.denoising_policy import DenoisingPolicy
from areal.learner.steps import flatten
from areal.rewards.reward import Score
from areal.rollout.consistency_engine import AdaptedModel, ConsistencyEngine
from areal.rollout.engine import ImageRequest, Sample
from areal.rollout.images import trajectory_of

from ..learner.images import LORA, made, moved, save_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


def engine_of(folder: Path, *, timeout_s: float = 30.0, **options: Any) -> ConsistencyEngine:
    model = AdaptedModel(str(folder), "float32", LORA.rank, LORA.alpha, LORA.targets)
    return ConsistencyEngine(model, DenoisingConfig(**options), timeout_s=timeout_s)


def published(policy: DenoisingPolicy, folder: Path) -> Path:
    """As the learner's Publisher writes it."""
    folder.mkdir()
    save_file(
        {name: tensor.detach().clone() for name, tensor in policy.weights().items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps(policy.adapter_config()))
    return folder


def asked(label: int, seed: int, start: int | None = None) -> ImageRequest:
    return ImageRequest({"label": label}, seed, start)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def answers(engine: ConsistencyEngine, weights: Path, *requests: ImageRequest) -> list[Sample]:
    await engine.start()
    try:
        await engine.update_weights(7, weights)
        return list(await asyncio.gather(*map(engine.generate, requests)))
    finally:
        await engine.stop()


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_the_learner_finds_the_densities_that_the_engine_told(folder: Path, tmp_path: Path, wire: str) -> None:
    policy = moved(made(folder, wire=wire))
    requests = [asked(3, 2**64 - 1), asked(4, 5), asked(4, 6, start=9)]
    samples = run(answers(engine_of(folder, wire=wire), published(policy, tmp_path / "v7"), *requests))
    images = [trajectory_of(s, Score(0.0, {}), r.seed) for s, r in zip(samples, requests, strict=True)]
    assert [(image.version, image.latents.dtype, image.condition["label"]) for image in images] == [
        (7, np.dtype(wire), label) for label in (3, 4, 4)
    ]
    scores = policy.scores(flatten(images, [range(3)] * 3))
    told = torch.from_numpy(np.concatenate([image.behaviour_logprobs for image in images]))
    assert (scores.logprobs_A.detach() - told).reshape(3, 3).sum(1).abs().max() <= 1e-3
    assert scores.closed is not None and scores.closed.behaviour_kl_A.max() < 1e-4  # the noise is that of the seeds


def test_an_image_depends_on_its_row_and_seed_and_not_on_its_company(folder: Path, tmp_path: Path) -> None:
    weights = published(moved(made(folder)), tmp_path / "v7")
    crowd = run(answers(engine_of(folder, max_batch=2), weights, *(asked(label, label) for label in range(5))))
    alone = run(answers(engine_of(folder), weights, asked(4, 4)))
    assert np.allclose(crowd[4].latents, alone[0].latents, atol=1e-5)
    assert alone[0].image.mode == "L" and alone[0].image.size == (32, 32)
    assert alone[0].levels.tolist() == crowd[0].levels.tolist() == [999, 759, 499, 259]
    assert alone[0].logprobs.shape == (3,)


def test_images_may_begin_with_the_same_noise(folder: Path, tmp_path: Path) -> None:
    weights = published(made(folder), tmp_path / "v7")
    one, other = run(answers(engine_of(folder), weights, asked(1, 1, start=8), asked(1, 2, start=8)))
    assert np.array_equal(one.latents[0], other.latents[0])
    assert not np.allclose(one.latents[1], other.latents[1])


def test_weights_change_between_batches(folder: Path, tmp_path: Path) -> None:
    first, second = (published(moved(made(folder), seed=seed), tmp_path / f"v{seed}") for seed in (1, 2))

    async def work() -> list[Sample]:
        engine = engine_of(folder, max_batch=4)
        await engine.start()
        await engine.update_weights(1, first)
        under_way = [asyncio.create_task(engine.generate(asked(1, 1))) for _ in range(12)]
        await under_way[0]
        pause_s = await engine.update_weights(2, second)
        samples = list(await asyncio.gather(*under_way))
        await engine.stop()
        assert pause_s >= 0
        return samples

    samples = run(work())
    assert {sample.version for sample in samples} == {1, 2}
    images = {sample.version: np.asarray(sample.image) for sample in samples}
    assert not np.array_equal(images[1], images[2])
    for sample in samples:
        assert np.array_equal(np.asarray(sample.image), images[sample.version])


def test_what_cannot_be_made_is_refused_and_the_engine_goes_on(folder: Path, tmp_path: Path) -> None:
    weights = published(made(folder), tmp_path / "v7")

    async def work() -> None:
        engine = engine_of(folder)
        with pytest.raises(EngineDied, match="not running"):
            await engine.generate(asked(1, 1))
        await engine.start()
        with pytest.raises(EngineError, match="before the first weights"):
            await engine.generate(asked(1, 1))
        await engine.update_weights(7, weights)
        good, bad = (
            asyncio.gather(*(engine.generate(asked(label, label)) for label in (1, 2))),
            engine.generate(asked(11, 1)),
        )
        with pytest.raises(EngineError, match="the label 11, and the model knows the classes 0 to 9"):
            await bad
        assert [sample.condition["label"] for sample in await good] == [1, 2]
        assert (await engine.generate(asked(1, 1))).version == 7
        waiting = asyncio.create_task(engine.generate(asked(1, 2)))
        await asyncio.sleep(0)
        await engine.stop()
        with pytest.raises(EngineDied, match="stopped"):
            await waiting

    run(work())


def test_a_damaged_version_and_a_missing_pipeline_are_told(folder: Path, tmp_path: Path) -> None:
    async def work() -> None:
        engine = engine_of(folder)
        await engine.start()
        with pytest.raises(EngineDied, match="version 3 could not be loaded"):
            await engine.update_weights(3, tmp_path)
        await engine.stop()
        with pytest.raises(EngineError, match=r"did not start with .*nowhere"):
            await engine_of(tmp_path / "nowhere").start()

    run(work())


def test_an_engine_that_hangs_is_given_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = published(made(folder), tmp_path / "v7")
    engine = engine_of(folder, timeout_s=0.5)

    async def work() -> None:
        await engine.start()
        await engine.update_weights(7, weights)

        async def never(batch: Any) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(engine, "_answer", never)
        with pytest.raises(EngineDied, match=r"no image within 0.5 s \(rollout.engine.timeout_s\)"):
            await engine.generate(asked(1, 1))
        await engine.stop()

    run(work())
