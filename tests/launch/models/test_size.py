import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from areal.launch.models.size import size_of
from areal.learner.config import LoraConfig

from ..test_config import CONFIGS


def write(file: Path, shapes: Mapping[str, list[int]]) -> None:
    """The head of a file of safetensors, without its tensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    head = json.dumps({"__metadata__": {"format": "pt"}} | tensors).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head)


def test_a_model_is_as_large_as_the_readme_says() -> None:
    size = size_of(str(CONFIGS / "models" / "sort"))
    assert size is not None and size.parameters == size.trained(None) == 110_912
    assert size.config["hidden_size"] == 64


def test_adapters_are_of_the_matrices_that_are_named(tmp_path: Path) -> None:
    shapes = {
        "model.embed_tokens.weight": [100, 8],
        "model.layers.0.self_attn.q_proj.weight": [16, 8],
        "model.layers.0.mlp.up_proj.weight": [32, 8],
        "model.layers.0.norm.weight": [8],
        "lm_head.weight": [100, 8],
    }
    write(tmp_path / "model.safetensors", shapes)
    size = size_of(str(tmp_path))
    assert size is not None and size.parameters == 100 * 8 * 2 + 16 * 8 + 32 * 8 + 8
    assert size.trained(LoraConfig(rank=2)) == 2 * (16 + 8) + 2 * (32 + 8)
    assert size.trained(LoraConfig(rank=2, targets=["q_proj"])) == 2 * (16 + 8)
    assert size.trained(LoraConfig(rank=2, targets="attention")) == 2 * (16 + 8)


def test_each_tensor_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "model-1.safetensors", {"a": [2, 3]})
    write(tmp_path / "model-2.safetensors", {"b": [4]})
    write(tmp_path / "consolidated.safetensors", {"other_name_of_a": [2, 3], "other_name_of_b": [4]})
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    size = size_of(str(tmp_path))
    assert size is not None and size.parameters == 10


def test_a_pipeline_is_all_of_its_parts(tmp_path: Path) -> None:
    write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {"a": [5]})
    write(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"a": [5]})
    write(tmp_path / "vae" / "model.safetensors", {"a": [7]})
    size = size_of(str(tmp_path))
    assert size is not None and dict(size.shapes) == {"unet/a": (5,), "vae/a": (7,)}
    digits = size_of(str(CONFIGS / "models" / "digits"))
    assert digits is not None and 1_000_000 < digits.parameters < 1_300_000


def test_what_is_not_here_or_is_no_model_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert size_of("nobody/nothing-of-that-name") is None
    assert size_of("no id at all, and no folder") is None
    assert size_of(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert size_of(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"short")
    assert size_of(str(tmp_path)) is None
