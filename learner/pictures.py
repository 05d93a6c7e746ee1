"""Pictures of known classes to learn from, and those held out to judge by.

Legend: N pictures, C channels, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor

from ..broker.errors import ConfigError
from .picture_files import DIGITS, PictureFiles, find_pictures

DIGIT_SIZE = 8
HELD_OUT = 1 / 6


@dataclass(frozen=True, slots=True)
class Pictures:
    """images: float32[N, C, H, W] in [−1, 1]; labels: int64[N]; classes: the name of each label."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def split(self) -> tuple["Pictures", "Pictures"]:
        """Those to learn from and those held out, the same ones always."""
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(self.images)))
        held_out = max(1, round(HELD_OUT * len(order)))
        parts = order[held_out:], order[:held_out]
        learned, judged = (Pictures(self.images[part], self.labels[part], self.classes) for part in parts)
        return learned, judged


def load_pictures(source: str, size: int, *, key: str) -> Pictures:
    """scikit-learn's `digits`, 8 by 8 and grey, or a folder with a folder of pictures for each class, made `size` wide.

    Raises ConfigError, which names the `key` that the source is from.
    """
    found = find_pictures(source, key=key)
    if source == DIGITS:
        return _digits(found, size)
    images = torch.stack([_read(path, size, key) for path, _ in found.files])
    return Pictures(images, torch.tensor([label for _, label in found.files]), found.classes)


def from_images(images: Sequence[Image.Image], size: int, *, mode: str | None = None) -> Tensor:
    """float32[N, C, H, W] in [−1, 1], made `size` wide, and grey (L) or RGB as `mode` says."""
    mode = mode or images[0].mode
    resized = [image.convert(mode).resize((size, size), Image.Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in resized])) / 127.5 - 1
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _digits(names: PictureFiles, size: int) -> Pictures:
    if size != DIGIT_SIZE:
        raise ConfigError(f"consistency.image_size: the digits are {DIGIT_SIZE} pixels wide, not {size}")
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    return Pictures(images, torch.from_numpy(found.target).long(), names.classes)


def _read(path: Path, size: int, key: str) -> Tensor:
    """float32[3, H, W], the middle of the picture."""
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"{key}: the picture {path} cannot be read: {error}") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return from_images([picture.crop((left, top, left + side, top + side))], size)[0]
