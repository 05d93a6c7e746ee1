"""How large a model is, read off the heads of its files: no tensor is loaded, and no torch."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ...learner.config import LoraConfig

INDEX = "*.safetensors.index.json"
MAX_HEAD_BYTES = 100 * 2**20
NO_LORA = ("embed", "lm_head", "wte", "wpe", "norm")
"""What in the name of a matrix says that all-linear does not mean it."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The shapes of a model's tensors by name (of a pipeline with the part before: unet/…), and its config.json."""

    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(map(prod, self.shapes.values()))

    @property
    def text(self) -> Mapping[str, Any]:
        """What the config says of the language model, which of a model that sees images is a part."""
        text: Mapping[str, Any] = self.config.get("text_config") or self.config
        return text

    def trained(self, lora: LoraConfig | None) -> int:
        """How many are trained: all, or those of an adapter, about."""
        if lora is None:
            return self.parameters
        return sum(
            lora.rank * (shape[0] + shape[1]) for name, shape in self.shapes.items() if _adapted(name, shape, lora)
        )


def size_of(model_path: str) -> ModelSize | None:
    """The size of a folder, or of a hub id that was downloaded before; None where that cannot be told."""
    folder = Path(model_path)
    if not folder.is_dir():
        downloaded = in_hub_cache(model_path)
        if downloaded is None:
            return None
        folder = downloaded
    try:
        shapes = {name: shape for file in _files(folder) for name, shape in _shapes(file, folder)}
        config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return ModelSize(shapes, config) if shapes else None


def in_hub_cache(model_id: str) -> Path | None:
    """Where a model of the hub lies on this machine; None if it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        for name in ("config.json", "model_index.json"):
            found = try_to_load_from_cache(model_id, name)
            if isinstance(found, str):
                return Path(found).parent
    except HFValidationError:
        return None
    return None


def _files(folder: Path) -> list[Path]:
    """The files of weights: in the folder, or of a pipeline in those within it; each tensor once."""
    found = []
    for place in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        indices = sorted(place.glob(INDEX))
        if indices:
            names = sorted(set(json.loads(indices[0].read_text())["weight_map"].values()))
            found += [place / name for name in names]
            continue
        files = sorted(place.glob("*.safetensors"))
        found += [file for file in files if ".fp16." not in file.name] or files
        if place == folder and files:
            break
    return found


def _shapes(file: Path, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes in a file of safetensors. Raises ValueError where it is none."""
    part = "" if file.parent == folder else f"{file.parent.name}/"
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEAD_BYTES:
            raise ValueError(f"{file} has a head of {length} bytes")
        head = json.loads(stream.read(length))
    for name, tensor in head.items():
        if name != "__metadata__":
            yield f"{part}{name}", tuple(tensor["shape"])


def _adapted(name: str, shape: tuple[int, ...], lora: LoraConfig) -> bool:
    """Whether a tensor is a matrix that gets an adapter."""
    if len(shape) != 2 or not name.endswith(".weight"):
        return False
    if isinstance(lora.targets, list):
        module = name.removesuffix(".weight")
        return any(module == target or module.endswith(f".{target}") for target in lora.targets)
    if lora.targets == "attention":
        return "attn" in name
    return not any(part in name for part in NO_LORA)
