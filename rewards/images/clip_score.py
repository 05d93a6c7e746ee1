"""CLIP score: how well an image goes with its prompt (Hessel et al., arXiv 2104.08718, equation 1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..reward import begins_with
from .clip import CLIP_L14, image_embeddings, load_clip, text_embeddings

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE = 2.5
"""The paper's w, which brings scores near 0 to 1."""


@begins_with(load_clip)
def clip_score(images: "Sequence[Image]", prompts: Sequence[str], clip: str = CLIP_L14) -> list[float]:
    """2.5·max(cos(image, prompt), 0) of each image. `clip` is the folder or hub id of a CLIP model."""
    cosines = (image_embeddings(images, clip) * text_embeddings(prompts, clip)).sum(dim=-1)
    return [float(score) for score in SCALE * cosines.clamp(min=0)]
