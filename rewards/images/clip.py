"""Images and texts as CLIP sees them (Radford et al., arXiv 2103.00020): directions in a space that both share.

Legend: I images, T texts, E dimensions of the space.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...broker.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CLIP_L14 = "openai/clip-vit-large-patch14"
"""What LAION's aesthetic predictor looks through."""


def image_embeddings(images: "Sequence[Image]", clip: str) -> "Tensor":
    """float32[I, E], each of length 1. `clip` is the model's folder or hub id."""
    import torch

    network, processor = load_clip(clip)
    inputs = processor.image_processor([image.convert("RGB") for image in images], return_tensors="pt")
    with torch.inference_mode():
        found = network.vision_model(**inputs.to(network.device)).pooler_output
        return torch.nn.functional.normalize(network.visual_projection(found), dim=-1)


def text_embeddings(texts: Sequence[str], clip: str) -> "Tensor":
    """float32[T, E], each of length 1; of a text that is too long, its beginning counts."""
    import torch

    network, processor = load_clip(clip)
    inputs = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = network.text_model(**inputs.to(network.device)).pooler_output
        return torch.nn.functional.normalize(network.text_projection(found), dim=-1)


@cache
def load_clip(clip: str) -> Any:
    """The network, and what prepares images and texts for it; raises ConfigError where there are none."""
    try:
        import torch
        from transformers import CLIPModel, CLIPProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return CLIPModel.from_pretrained(clip).eval().to(device), CLIPProcessor.from_pretrained(clip)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"CLIP cannot be loaded from {clip!r} (kwargs.clip): a folder in Hugging Face format, or a hub id that can be "
            f"reached, is wanted: {str(error).strip().partition(chr(10))[0]}"
        ) from error
