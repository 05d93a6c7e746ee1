import io

import numpy as np
import pytest
from PIL import Image

from areal.rewards.images.jpeg import jpeg_compressibility, jpeg_incompressibility


def test_kilobytes_are_those_of_the_file() -> None:
    """A grey JPEG of one block, quality 95, by libjpeg's own size; noise takes more than a plain image."""
    plain = Image.new("L", (32, 32), 128)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8))
    written = io.BytesIO()
    noise.save(written, "JPEG", quality=95)
    assert jpeg_incompressibility(noise) == len(written.getvalue()) / 1000
    assert jpeg_compressibility(noise) == -jpeg_incompressibility(noise)
    assert jpeg_incompressibility(plain) == pytest.approx(0.344, abs=0.02)
    assert jpeg_incompressibility(noise) > 1.2
    assert jpeg_incompressibility(noise, quality=20) < jpeg_incompressibility(noise)
    assert jpeg_incompressibility(noise.convert("RGB")) > jpeg_incompressibility(noise)
