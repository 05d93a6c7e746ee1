from typing import Any

import numpy as np
import pytest
from PIL import Image

from areal.broker.errors import RewardError
from areal.rewards.pictures import from_wire, to_wire


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_pictures_arrive_bit_for_bit(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (arrived,) = from_wire(to_wire([Image.fromarray(pixels)]))
    assert arrived.mode == ("L" if len(shape) == 2 else "RGB") and arrived.size == (5, 3)
    assert np.array_equal(np.asarray(arrived), pixels)


def test_other_modes_are_refused() -> None:
    with pytest.raises(RewardError, match="a picture of mode RGBA cannot be rewarded: make it one of L, RGB"):
        to_wire([Image.new("RGBA", (2, 2))])


@pytest.mark.parametrize(
    "picture",
    [
        ["L", 2, 2, b"123"],
        ["L", 2, 2, b"12345"],
        ["RGB", 2, 2, b"1234"],
        ["L", 0, 2, b""],
        ["L", -1, -4, b"1234"],
        ["L", 2.0, 2, b"1234"],
        ["P", 2, 2, b"1234"],
        ["L", 20_000, 1, b"1" * 20_000],
    ],
)
def test_bytes_that_are_no_picture_are_refused(picture: list[Any]) -> None:
    with pytest.raises(RewardError, match="are no picture of"):
        from_wire([picture])
