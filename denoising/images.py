"""Images in 8 bits, and a sheet of them, each beside what it was before."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Picture = NDArray[np.uint8]

GAP, MARGIN = 2, 10
SMALLEST, LARGEST = 64, 256
"""Pixels that an image is shown in."""


def to_images(images: Tensor) -> list[Image.Image]:
    """The images of float[N, C, H, W] in [−1, 1], grey or RGB."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in pixels]


def draw_grid(pairs: Sequence[tuple[Picture | None, Picture]], *, columns: int, path: Path) -> None:
    """Write a PNG: left what was before, right what is now, in rows of `columns`; blank where there was nothing before.

    pairs: uint8[H, W] (grey) or [H, W, 3].
    """
    side = int(np.clip(max(pairs[0][1].shape[:2]), SMALLEST, LARGEST))
    cell, rows = side + GAP, -(-len(pairs) // columns)
    half = columns * cell - GAP
    sheet = Image.new("RGB", (2 * half + MARGIN, rows * cell - GAP), "white")
    for place, pair in enumerate(pairs):
        row, column = divmod(place, columns)
        for left, picture in zip((0, half + MARGIN), pair, strict=True):
            if picture is not None:
                sheet.paste(_shown(picture, side), (left + column * cell, row * cell))
    aside = path.with_name(f".{path.name}")
    sheet.save(aside, format="PNG")
    aside.replace(path)


def _shown(picture: Picture, side: int) -> Image.Image:
    image = Image.fromarray(picture)
    sampling = Image.Resampling.NEAREST if max(image.size) < side else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((side, side), sampling)
