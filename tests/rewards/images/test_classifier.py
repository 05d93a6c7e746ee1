from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.images.classifier import classifier


def digits(count: int) -> tuple[list[Image.Image], list[int]]:
    real = load_digits()
    small = (real.images[:count] * (255 / 16)).round().astype(np.uint8)
    wide = [Image.fromarray(digit).resize((32, 32), Image.Resampling.BICUBIC) for digit in small]
    return wide, real.target[:count].tolist()


def test_real_digits_are_known_and_wrong_classes_too() -> None:
    images, labels = digits(200)
    assert np.mean(classifier(images, labels)) > 0.9
    assert np.mean(classifier(images, [(label + 1) % 10 for label in labels])) < 0.05
    everything = sum(np.array(classifier(images[:1], [label])) for label in range(10))
    assert everything == pytest.approx(1.0)


@pytest.mark.parametrize("label", [10, -1, "seven", True, None])
def test_a_class_that_it_does_not_know_is_refused(label: object) -> None:
    with pytest.raises(RewardError, match="and the classifier knows 0 to 9"):
        classifier(digits(1)[0], [label])  # type: ignore[list-item]


def test_a_model_of_transformers_is_asked_by_number_or_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    image = digits(1)[0][0]
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        wanted = network(pixels).logits.softmax(-1)[0].tolist()
    found = classifier([image] * 3, [0, "dog", "owl"], model=str(tmp_path))
    assert found == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(RewardError, match="the classifier knows 0 to 2"):
        classifier([image], ["cow"], model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"the classifier .*nowhere.* \(kwargs.model\) cannot be loaded"):
        classifier([image], [0], model=str(tmp_path / "nowhere"))
