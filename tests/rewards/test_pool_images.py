"""The pool, where answers are images."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.pool import RewardPool
from areal.rewards.reward import Score

FUNCTIONS = """
import asyncio, os, time
import numpy as np
from areal.broker.errors import ConfigError
from areal.rewards.reward import begins_with

loaded = []

def load(weights):
    if weights == "none":
        raise ConfigError("there are no weights")
    loaded.append(weights)

@begins_with(load)
def weighed(images, weights="small"): return [float(len(loaded[0]))] * len(images)

def grey(image, prompt, scale=1):
    return float(np.asarray(image)[0, 0]) * scale + len(prompt)

def parts(image):
    return {"width": image.width, "height": image.height}

def all_of_them(images, prompts, label, **rows):
    assert len(images) == len(prompts) == len(label) == len(rows["answer"])
    return np.array([np.asarray(image).mean() for image in images]) + np.array(label)

async def later(images):
    await asyncio.sleep(0.01)
    return [1.0] * len(images)

async def each_later(image):
    await asyncio.sleep(0.01)
    return float(np.asarray(image)[0, 0])

def named(images): return [{"a": 1.0, "b": place} for place in range(len(images))]

def short(images): return [1.0]

def single(images): return 1.0

def nan(images): return [1.0, float("nan"), 1.0]

def of_text(completion): return 1.0

def slow_first(images, marks):
    mark = os.path.join(marks, "seen")
    if not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(600)
    return [2.0] * len(images)
"""

ROW = {"prompt": "a cat", "label": 3, "answer": "x"}
IMAGES = [Image.new("L", (6, 4), shade) for shade in (10, 20, 30)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path / "mine.py"


def scored(file: Path, *names: str, kwargs: dict[str, Any] | None = None, **options: Any) -> list[Score]:
    functions = [
        {"name": f"{file}:{name}", "kwargs": kwargs or {}, "weight": 2 - place} for place, name in enumerate(names)
    ]
    config = RewardsConfig.model_validate({"functions": functions, **options})

    async def work() -> list[Score]:
        pool = RewardPool(config)
        await pool.start()
        try:
            return await pool.score_images("a cat", IMAGES, ROW)
        finally:
            await pool.stop()

    return asyncio.run(work())


def test_a_function_of_an_image_is_called_for_each(file: Path) -> None:
    scores = scored(file, "grey", kwargs={"scale": 10})
    assert [score.parts for score in scores] == [{"grey": 105.0}, {"grey": 205.0}, {"grey": 305.0}]
    assert [score.total for score in scores] == [210.0, 410.0, 610.0]
    assert [score.total for score in scored(file, "each_later")] == [20.0, 40.0, 60.0]


def test_a_function_of_images_is_called_once_with_lists(file: Path) -> None:
    assert [score.total / 2 for score in scored(file, "all_of_them")] == [13.0, 23.0, 33.0]
    assert [score.total for score in scored(file, "later")] == [2.0, 2.0, 2.0]


def test_what_a_function_begins_with_is_done_once_as_its_process_starts(file: Path) -> None:
    assert [score.total for score in scored(file, "weighed")] == [10.0] * 3
    assert [score.total for score in scored(file, "weighed", kwargs={"weights": "large one"})] == [18.0] * 3
    with pytest.raises(ConfigError, match="there are no weights"):
        scored(file, "weighed", kwargs={"weights": "none"})


def test_parts_are_named_and_functions_are_summed(file: Path) -> None:
    scores = scored(file, "parts", "named")
    assert scores[2].parts == {"parts.width": 6.0, "parts.height": 4.0, "named.a": 1.0, "named.b": 2.0}
    assert [score.total for score in scores] == [2 * 10 + 1.0, 2 * 10 + 2.0, 2 * 10 + 3.0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("short", "returned 1 rewards for 3 answers: one for each is wanted"),
        ("single", r"returned 1.0 \(float\), and a list of 3 rewards is wanted, one for each answer"),
        ("nan", r"returned nan \(float\), not a finite number"),
        ("of_text", r"rewards texts \(it takes 'completion'\), and this run's answers are images"),
    ],
)
def test_what_is_no_reward_of_images_is_refused(file: Path, name: str, says: str) -> None:
    with pytest.raises(RewardError, match=f"{name}.*failed 2 times, lastly: .*{says}"):
        scored(file, name)


def test_a_call_that_hangs_is_killed_and_tried_again(file: Path, tmp_path: Path) -> None:
    scores = scored(file, "slow_first", kwargs={"marks": str(tmp_path)}, timeout_s=0.5)
    assert [score.total for score in scores] == [4.0, 4.0, 4.0]


def test_images_are_not_for_a_reward_of_images_asked_about_a_text(file: Path) -> None:
    async def work() -> None:
        pool = RewardPool(RewardsConfig.model_validate({"functions": [{"name": f"{file}:grey"}], "retries": 0}))
        await pool.start()
        try:
            with pytest.raises(
                RewardError, match=r"grey rewards images \(it takes 'image'\), and this run's answers are texts"
            ):
                await pool.score("a cat", "meow", ROW)
        finally:
            await pool.stop()

    asyncio.run(work())


def test_large_pictures_pass(file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (768, 768, 3)).astype(np.uint8)

    async def work() -> list[Score]:
        pool = RewardPool(RewardsConfig.model_validate({"functions": [{"name": f"{file}:all_of_them"}]}))
        await pool.start()
        try:
            return await pool.score_images("a cat", [Image.fromarray(pixels)] * 16, ROW)
        finally:
            await pool.stop()

    assert [score.total for score in asyncio.run(work())] == pytest.approx([pixels.mean() + 3] * 16)
