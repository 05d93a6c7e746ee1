"""What images of held-out rows look like as training goes on: a grid, before and now, and what a judge says of them.

A reward can be won by images that nobody wants: all alike, of no class, unlike any that are real. So each evaluation
tells, beside the reward, how various they are, and where there are real ones to compare with what the judge says.

Legend: N images, H and W pixels.
"""

import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..broker.errors import ConfigError
from ..broker.folder import sync
from ..broker.trajectory import DenoisingTrajectory, Group
from ..denoising.images import draw_grid
from .config import EvaluationConfig
from .judge import KEY, Judge, diversity

logger = logging.getLogger(__name__)

FOLDER = "pictures"
BEFORE = "before.npz"

Picture = NDArray[np.uint8]


class Gallery:
    """The images of a run's evaluations, in the folder `pictures` of its directory.

    Each method is given the steps taken before an evaluation and its rows by their number, and returns what is to be
    known of their images: nothing where there are none.
    """

    def __init__(self, directory: Path, config: EvaluationConfig) -> None:
        self._folder = directory / FOLDER
        self._config = config
        self._judge: Judge | None = None

    def draw(self, step: int, rows: Mapping[int, Group[Any]]) -> dict[str, str]:
        """Draw the grid, and tell its place in the run directory as `pictures`.

        Each image stands beside that of the same noise in the run's first evaluation. A row that this one lacks has
        nothing beside it, ever after: what it looks like once the weights have learned is not how it began.
        """
        shown = {number: row for number, row in _images_of(rows).items() if row}
        if not shown:
            return {}
        self._folder.mkdir(parents=True, exist_ok=True)
        columns = max(1, self._config.pictures // max(1, min(len(shown), self._config.pictures)))
        now = {
            f"{number}.{member}": _picture_of(image)
            for number, row in list(shown.items())[: self._config.pictures]
            for member, image in enumerate(row[:columns])
        }
        before = self._before(now)
        both = [(before.get(name), picture) for name, picture in now.items()]
        name = f"step-{step:06d}.png"
        draw_grid(both, columns=columns, path=self._folder / name)
        return {"pictures": f"{FOLDER}/{name}"}

    def measure(self, step: int, rows: Mapping[int, Group[Any]]) -> dict[str, float]:
        """How various the images of a condition are, as `diversity`."""
        images = [image for row in _images_of(rows).values() for image in row]
        if not images:
            return {}
        kinds: dict[str, int] = {}
        meant = np.array([kinds.setdefault(repr(image.condition), len(kinds)) for image in images])
        pictures = _stacked(images)
        return {"diversity": diversity(pictures.reshape(len(pictures), -1) / 127.5 - 1, meant)}

    def judge(self, step: int, rows: Mapping[int, Group[Any]]) -> dict[str, float]:
        """What the judge says, if there is one: `judge_accuracy` and, of two images or more, `frechet`.

        Raises ConfigError for images that no judge can compare.
        """
        images = [image for row in _images_of(rows).values() for image in row]
        if not images or self._config.judge is None:
            return {}
        labels = [label for image in images if isinstance(label := image.condition.get("label"), int)]
        if len(labels) < len(images):
            raise ConfigError(f"{KEY} compares images of known classes, and these have no label: set it to null")
        pictures = _stacked(images)
        self._judge = self._judge or Judge.of_source(self._config.judge, pictures.shape[2])
        verdict = self._judge.of_images([Image.fromarray(picture) for picture in pictures], labels)
        found = {"judge_accuracy": verdict.accuracy}
        return found if verdict.frechet is None else found | {"frechet": verdict.frechet}

    def _before(self, now: Mapping[str, Picture]) -> dict[str, Picture]:
        """The images of the first evaluation, which these are if there was none; none where they cannot be read."""
        file = self._folder / BEFORE
        if not file.exists():
            self._keep(file, now)
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
                return {name: saved[name] for name in saved.files}
        except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error) as error:
            logger.warning("%s cannot be read, so the grid shows nothing of before: %s", file, error)
            return {}

    def _keep(self, file: Path, now: Mapping[str, Picture]) -> None:
        """Write the images to the disk, whole or not at all."""
        aside = file.with_name(f".{BEFORE}")
        with aside.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **dict(now))
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(file)
        sync(self._folder)


def _images_of(rows: Mapping[int, Group[Any]]) -> dict[int, list[DenoisingTrajectory]]:
    """The images of each row that can be seen, by its number."""
    return {
        number: [t for t in group.trajectories if isinstance(t, DenoisingTrajectory) and t.picture is not None]
        for number, group in sorted(rows.items())
    }


def _picture_of(image: DenoisingTrajectory) -> Picture:
    assert image.picture is not None  # as _images_of has it
    return image.picture


def _stacked(images: list[DenoisingTrajectory]) -> Picture:
    """uint8[N, H, W] or uint8[N, H, W, 3]."""
    return np.stack([_picture_of(image) for image in images])
