"""From a prompt to a group of images: each made from noise of its own, all rewarded together."""

import asyncio
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..broker.trajectory import LOOKED_AT, DenoisingTrajectory, Prompt
from ..rewards.reward import Score
from .engine import ImageEngine, ImageRequest, Sample
from .workflow import Tools, prompt_of


class Images:
    """One row, G images."""

    def __init__(self, tools: Tools) -> None:
        assert tools.denoising is not None
        self._tools = tools
        self._shared_noise = tools.denoising.shared_noise

    async def run(self, prompt: Prompt, engine: ImageEngine) -> list[DenoisingTrajectory]:
        """The group, of which one version made each image; how they are scored, see Scorer.score_images."""
        requests = self._requests(prompt)
        samples = await _all(engine, requests)
        images = [sample.image for sample in samples]
        scores = await self._tools.scorer.score_images(prompt_of(prompt.row), images, prompt.row)
        seen = LOOKED_AT in prompt.row
        return [
            trajectory_of(sample, score, request.seed, picture=seen)
            for sample, score, request in zip(samples, scores, requests, strict=True)
        ]

    def _requests(self, prompt: Prompt) -> list[ImageRequest]:
        number = prompt.row.get(LOOKED_AT)
        origin = f"{self._tools.seed}:{prompt.id}" if number is None else looked_at(number)
        seeds, start = seeds_of(origin, prompt.group_size, shared_noise=self._shared_noise)
        return [ImageRequest(prompt.row, seed, start) for seed in seeds]


async def _all(engine: ImageEngine, requests: list[ImageRequest]) -> list[Sample]:
    tasks = [asyncio.create_task(engine.generate(request)) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()  # those left over when one failed


def looked_at(number: int) -> str:
    """What the noise of the images of a row is made from that somebody looks at."""
    return f"seen:{number}"


def seeds_of(origin: str, count: int, *, shared_noise: bool) -> tuple[list[int], int | None]:
    """The seeds of so many images, and that of the noise which all of them begin with, if they do."""
    start = seed_of(f"{origin}:start") if shared_noise else None
    return [seed_of(f"{origin}:{member}") for member in range(count)], start


def seed_of(name: str) -> int:
    """A seed below 2⁶⁴, always the same for a name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def trajectory_of(sample: Sample, score: Score, seed: int, *, picture: bool = False) -> DenoisingTrajectory:
    """A sample and what it earned as a trajectory, with the image itself where somebody is to look at it."""
    return DenoisingTrajectory(
        latents=sample.latents,
        timesteps=sample.levels,
        behaviour_logprobs=sample.logprobs,
        version=sample.version,
        condition=sample.condition,
        guidance=sample.guidance,
        seed=seed,
        reward=score.total,
        reward_parts=score.parts,
        picture=_pixels(sample) if picture else None,
    )


def _pixels(sample: Sample) -> NDArray[np.uint8]:
    return np.asarray(sample.image, np.uint8)
