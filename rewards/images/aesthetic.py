"""LAION's aesthetic predictor: what people would rate an image, from 1 to 10, by a linear head on CLIP's view of it.

The head is github.com/christophschuhmann/improved-aesthetic-predictor's: five linear layers with nothing but dropout
between them, so that, when it is used, it is one affine map. It is folded into that once.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...broker.errors import ConfigError
from ..reward import begins_with
from .clip import CLIP_L14, image_embeddings, load_clip

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def _load(weights: str, clip: str) -> None:
    _head(weights, load_clip(clip)[0].config.projection_dim)


@begins_with(_load)
def aesthetic(images: "Sequence[Image]", weights: str, clip: str = CLIP_L14) -> list[float]:
    """The rating of each image.

    `weights` is the head's file, .pth or .safetensors (sac+logos+ava1-l14-linearMSE.pth, 3.7 MB), or where it lies on the
    hub, as owner/name/file. `clip` is the folder or hub id of the CLIP that it was trained on.
    """
    embeddings_IE = image_embeddings(images, clip).cpu().double()
    direction_E, offset = _head(weights, embeddings_IE.shape[1])
    return [float(rating) for rating in embeddings_IE @ direction_E + offset]


@cache
def _head(weights: str, width: int) -> "tuple[Tensor, Tensor]":
    """float64[E] and float64[], the affine map that the layers make; raises ConfigError if they are no such head."""
    import torch

    tensors = _read(weights)
    layers = sorted({name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}, key=_place)
    total_EO, offset_O = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    try:
        for layer in layers:
            weight_OI, bias_O = tensors[f"{layer}.weight"].double(), tensors[f"{layer}.bias"].double()
            total_EO, offset_O = total_EO @ weight_OI.T, offset_O @ weight_OI.T + bias_O
        return total_EO.reshape(width), offset_O.reshape(())
    except (KeyError, RuntimeError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ConfigError(
            f"{weights} (kwargs.weights) is no aesthetic head on {width} dimensions, which is linear layers from these to "
            f"1; its tensors: {shapes:.400}"
        ) from error


def _place(layer: str) -> list[int]:
    """By the numbers in its name: layers.10 comes after layers.2."""
    return [int(part) for part in layer.split(".") if part.isdigit()]


def _read(weights: str) -> "dict[str, Tensor]":
    try:
        import torch
        from safetensors.torch import load_file

        file = _found(weights)
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # unpicklers and the hub raise what they like
        raise ConfigError(
            f"the aesthetic head cannot be read from {weights!r} (kwargs.weights): {error}. Wanted is its file, or "
            "owner/name/file on the hub; LAION's is sac+logos+ava1-l14-linearMSE.pth of "
            "github.com/christophschuhmann/improved-aesthetic-predictor"
        ) from error


def _found(weights: str) -> Path:
    """The file, downloaded if it is on the hub."""
    file = Path(weights).expanduser()
    if file.is_file() or file.is_absolute() or len(file.parts) != 3:
        return file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download("/".join(file.parts[:2]), file.parts[2]))
