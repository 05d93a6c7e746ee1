"""Pictures of known classes to learn from, and those held out to judge by.

Legend: N pictures, C channels, H and W pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor

from ..broker.errors import ConfigError

DIGITS = "digits"
HELD_OUT = 1 / 6
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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


def load_pictures(source: str, size: int) -> Pictures:
    """scikit-learn's `digits`, 8 by 8 and grey, or a folder with a folder of pictures for each class, made `size` wide.

    Raises ConfigError.
    """
    if source == DIGITS:
        return _digits(size)
    folder = Path(source)
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    paths = [(path, label) for label, name in enumerate(classes) for path in _pictures_in(folder / name)]
    if len(paths) < 2:
        raise ConfigError(
            f"consistency.data: {source!r} is neither {DIGITS!r} nor a folder that holds, for each class, a folder of "
            f"pictures ({', '.join(ENDINGS)})"
        )
    images = torch.stack([_read(path, size) for path, _ in paths])
    return Pictures(images, torch.tensor([label for _, label in paths]), tuple(classes))


def _digits(size: int) -> Pictures:
    if size != 8:
        raise ConfigError(f"consistency.image_size: the digits are 8 pixels wide, not {size}")
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    return Pictures(images, torch.from_numpy(found.target).long(), tuple(map(str, range(10))))


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _read(path: Path, size: int) -> Tensor:
    """float32[3, H, W], the middle of the picture."""
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"consistency.data: the picture {path} cannot be read: {error}") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square, np.float32)).permute(2, 0, 1) / 127.5 - 1
