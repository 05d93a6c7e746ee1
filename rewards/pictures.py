"""Pictures on their way to a reward's process: raw bytes behind their mode and size, which no decoder has to be trusted with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..broker.errors import RewardError

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = {"L": 1, "RGB": 3}
MAX_SIDE = 16_384


def to_wire(images: Sequence["Image"]) -> list[list[Any]]:
    """[mode, width, height, bytes] of each; raises RewardError for modes other than grey (L) and RGB."""
    for image in images:
        if image.mode not in CHANNELS:
            raise RewardError(
                f"a picture of mode {image.mode} cannot be rewarded: make it one of {', '.join(CHANNELS)}"
            )
    return [[image.mode, image.width, image.height, image.tobytes()] for image in images]


def from_wire(pictures: Any) -> "list[Image]":
    """The pictures; raises RewardError unless each has as many bytes as its size says."""
    from PIL import Image

    made = []
    for mode, width, height, pixels in pictures:
        fits = mode in CHANNELS and all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (width, height))
        if not fits or len(pixels) != width * height * CHANNELS[mode]:
            raise RewardError(f"{len(pixels)} bytes are no picture of {width!r} by {height!r} pixels, mode {mode!r}")
        made.append(Image.frombytes(mode, (width, height), pixels))
    return made
