import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from areal.broker.trajectory import LOOKED_AT, DenoisingTrajectory, Prompt
from areal.denoising.config import DenoisingConfig
from areal.rewards.reward import Score
from areal.rollout.config import RolloutConfig
from areal.rollout.engine import ImageRequest, Sample
from areal.rollout.images import Images, seed_of
from areal.rollout.workflow import Tools, load_workflow


class Brush:
    """Makes images that are all of one grey, which their seed says."""

    def __init__(self) -> None:
        self.requests: list[ImageRequest] = []

    async def generate(self, request: ImageRequest) -> Sample:
        self.requests.append(request)
        return Sample(
            image=Image.new("L", (4, 4), request.seed % 256),
            latents=np.zeros((3, 1, 2, 2), np.float16),
            levels=np.array([999, 499, 259], np.int32),
            logprobs=np.array([-1.0, 2.0], np.float32),
            version=5,
            condition={"label": request.row["label"]},
            guidance=1.0,
        )


class Critic:
    """Pays for the grey of an image."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    async def score(self, prompt: str, completion: str, row: dict[str, Any]) -> Score:
        raise AssertionError("there is no text")

    async def score_images(self, prompt: str, images: Sequence[Image.Image], row: dict[str, Any]) -> list[Score]:
        self.calls.append((prompt, len(images)))
        return [Score(float(np.asarray(image)[0, 0]), {"grey": 1.0}) for image in images]


def made(
    row: dict[str, Any], *, prompt_id: int = 3, seed: int = 0, **options: Any
) -> tuple[list[DenoisingTrajectory], Brush]:
    brush, scorer = Brush(), Critic()
    workflow = Images(Tools(None, scorer, RolloutConfig(), DenoisingConfig(**options), seed))
    found = asyncio.run(workflow.run(Prompt(prompt_id, 0, 4, row), brush))  # type: ignore[arg-type]
    assert scorer.calls == [(row["prompt"], 4)]
    return found, brush


def test_each_image_of_a_group_has_a_seed_of_its_own_and_its_own_reward() -> None:
    images, brush = made({"prompt": "7", "label": 7})
    assert [image.seed for image in images] == [request.seed for request in brush.requests]
    assert len({image.seed for image in images}) == 4
    assert [image.reward for image in images] == [float(image.seed % 256) for image in images]
    assert {image.version for image in images} == {5} and images[0].condition == {"label": 7}
    assert all(request.start is None for request in brush.requests)
    assert all(image.picture is None for image in images)
    again, _ = made({"prompt": "7", "label": 7})
    assert [image.seed for image in again] == [image.seed for image in images]
    others = made({"prompt": "7", "label": 7}, prompt_id=4)[0] + made({"prompt": "7", "label": 7}, seed=1)[0]
    assert not {image.seed for image in others} & {image.seed for image in images}


def test_rows_to_look_at_are_made_of_the_same_noise_and_bring_their_pictures() -> None:
    first, _ = made({"prompt": "7", "label": 7, LOOKED_AT: 2})
    later, _ = made({"prompt": "7", "label": 7, LOOKED_AT: 2}, prompt_id=90)
    assert [image.seed for image in first] == [image.seed for image in later]
    assert first[1].picture is not None
    assert first[1].picture.tolist() == [[first[1].seed % 256] * 4] * 4
    others, _ = made({"prompt": "7", "label": 7, "seed": 2})  # a column of the user's own changes nothing
    assert others[1].picture is None and not {image.seed for image in others} & {image.seed for image in first}


def test_a_group_may_begin_with_the_same_noise() -> None:
    _, brush = made({"prompt": "7", "label": 7}, shared_noise=True)
    assert len({request.start for request in brush.requests}) == 1 and brush.requests[0].start is not None
    assert len({request.seed for request in brush.requests}) == 4


def test_seeds_are_always_the_same() -> None:
    """The first eight bytes of BLAKE2b's digest of that length, as `b2sum -l 64` prints it, from the right."""
    assert seed_of("0:3:0") == 0x6443706D37DBAA6E


def test_one_turn_of_an_image_policy_is_an_image() -> None:
    tools = Tools(None, Critic(), RolloutConfig(), DenoisingConfig())
    assert isinstance(load_workflow(RolloutConfig(), tools), Images)
