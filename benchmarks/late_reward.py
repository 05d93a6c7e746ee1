"""A reward that takes as long as a server's would: see rlcm.py."""

import asyncio
from collections.abc import Sequence

from PIL.Image import Image

from areal.rewards.images.jpeg import jpeg_compressibility


async def late_compressibility(images: Sequence[Image], latency_s: float) -> list[float]:
    """Kilobytes of the JPEGs, below 0, after a while."""
    found = [jpeg_compressibility(image) for image in images]
    await asyncio.sleep(latency_s)
    return found
