"""How many bytes a JPEG of an image takes: the two tasks of DDPO (arXiv 2305.13301) that need no model.

They grow with the number of pixels: figures of different resolutions cannot be compared.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def jpeg_compressibility(image: "Image", quality: int = 95) -> float:
    """Kilobytes (1000 bytes) of the JPEG, below 0: the smaller it is, the better."""
    return -jpeg_incompressibility(image, quality)


def jpeg_incompressibility(image: "Image", quality: int = 95) -> float:
    """Kilobytes (1000 bytes) of the JPEG, of a grey image a grey one."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return len(written.getvalue()) / 1000
