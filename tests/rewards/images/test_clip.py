"""CLIP score and the aesthetic predictor, which look through the same model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel

from areal.broker.errors import ConfigError
from areal.rewards.images.aesthetic import aesthetic
from areal.rewards.images.clip_score import clip_score
from areal.rewards.reward import prepare

from .tiny_clip import SIDE, WIDTH, save_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on (github.com/openai/CLIP, clip.py)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("clip")
    save_clip(found)
    return found


def pictures(count: int) -> list[Image.Image]:
    """Of the size that CLIP looks at, so that nothing is resized."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)]


def seen(folder: Path, images: list[Image.Image]) -> Tensor:
    """Unit vectors of images, by the whole model and by hand."""
    pixels = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images])) / 255
    inputs = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    return together(folder, inputs, torch.tensor([[0, 1]]))[0]


def read(folder: Path, text: str) -> Tensor:
    """The unit vector of a text of single-letter words."""
    ids = torch.tensor([[0, *(2 + 26 + ord(letter) - ord("a") for letter in text.split()), 1]])
    return together(folder, torch.zeros(1, 3, SIDE, SIDE), ids)[1][0]


def together(folder: Path, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The whole model's own embeddings of images and texts."""
    with torch.no_grad():
        found = CLIPModel.from_pretrained(folder).eval()(pixel_values=pixels, input_ids=ids)
    return found.image_embeds, found.text_embeds


def test_the_clip_score_is_a_cosine_that_counts_above_0(folder: Path) -> None:
    images, texts = pictures(3), ["a b c", "x", "q r s t"]
    cosines = [float(image @ read(folder, text)) for image, text in zip(seen(folder, images), texts, strict=True)]
    wanted = [max(0.0, 2.5 * cosine) for cosine in cosines]
    assert clip_score(images, texts, clip=str(folder)) == pytest.approx(wanted, abs=1e-5)
    assert min(wanted) == 0 < max(wanted)


def test_the_beginning_of_a_prompt_counts_that_is_too_long(folder: Path) -> None:
    (image,) = pictures(1)
    assert clip_score([image], ["a " * 60], str(folder)) == clip_score([image], ["a " * 40 + "b c"], str(folder))


def head() -> nn.Sequential:
    """Layers as LAION's: dropout between them, and nothing that bends."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(WIDTH, 8), nn.Dropout(0.2), nn.Linear(8, 6), nn.Dropout(0.2), nn.Linear(6, 4), nn.Linear(4, 1)
    ).eval()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_the_aesthetic_rating_is_what_the_layers_say(folder: Path, tmp_path: Path, kind: str) -> None:
    layers, file = head(), tmp_path / f"head.{kind}"
    tensors = {f"layers.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save(tensors, file) if kind == "pth" else save_file(tensors, file)
    images = pictures(4)
    with torch.no_grad():
        wanted = layers(seen(folder, images))[:, 0].tolist()
    assert aesthetic(images, str(file), clip=str(folder)) == pytest.approx(wanted, abs=1e-5)


def test_grey_and_large_images_are_seen_too(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "head.pth"
    torch.save({f"layers.{name}": tensor for name, tensor in head().state_dict().items()}, file)
    grey = Image.new("L", (64, 48), 90)
    assert aesthetic([grey], str(file), clip=str(folder)) == aesthetic([grey.convert("RGB")], str(file), str(folder))


def test_what_is_missing_is_told_as_the_run_starts(folder: Path, tmp_path: Path) -> None:
    def begin(name: str, function: object, **kwargs: str) -> None:
        prepare(name, function, kwargs).begin()  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"CLIP cannot be loaded from '.*nowhere' \(kwargs.clip\): a folder in"):
        begin("clip_score", clip_score, clip=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"'aesthetic' wants 'weights': see rewards.functions.kwargs"):
        begin("aesthetic", aesthetic, clip=str(folder))
    with pytest.raises(ConfigError, match=r"the aesthetic head cannot be read from '/no/head.pth' \(kwargs.weights\)"):
        begin("aesthetic", aesthetic, clip=str(folder), weights="/no/head.pth")
    torch.save({"layers.0.weight": torch.zeros(1, 768), "layers.0.bias": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"no aesthetic head on 12 dimensions.* layers.0.weight \[1, 768\]"):
        begin("aesthetic", aesthetic, clip=str(folder), weights=str(tmp_path / "other.pth"))


def test_a_head_that_is_a_program_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Program(), tmp_path / "head.pth")
    with pytest.raises(ConfigError, match=r"cannot be read from"):
        aesthetic(pictures(1), str(tmp_path / "head.pth"), clip=str(folder))
    assert not (tmp_path / "ran").exists()
