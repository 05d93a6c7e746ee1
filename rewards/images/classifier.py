"""p(class | image): whether an image is of what it was meant to be, by a classifier that has seen real ones."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...broker.errors import ConfigError, RewardError
from ..reward import begins_with

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS = "digits"
SIDE = 8


def _begin(model: str) -> None:
    if model != DIGITS:
        _loaded(model)


@begins_with(_begin)
def classifier(images: "Sequence[Image]", label: Sequence[int | str], model: str = DIGITS) -> list[float]:
    """The probability of each image's `label` (a column of the row).

    `model` is digits, a logistic regression on scikit-learn's digits, fitted here; or the folder or hub id of a model that
    transformers has for image classification, whose labels are numbers or names. A classifier is easily won by images
    that no person would take for that class: look at them.
    """
    if model != DIGITS:
        return _by_transformers(list(images), label, model)
    found = _of_digits(images[0].width).predict_proba(_pixels(images))
    return [float(row[_number(each, range(10))]) for row, each in zip(found, label, strict=True)]


@cache
def _of_digits(width: int) -> Any:
    """Fitted on digits as they look when they have been made so wide, and small again."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    real = load_digits()
    small = (real.images * (255 / 16)).round().astype("uint8")
    wide = [Image.fromarray(digit).resize((width, width), Image.Resampling.BICUBIC) for digit in small]
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(_pixels(wide), real.target)


def _pixels(images: "Sequence[Image]") -> Any:
    """float[N, 64], grey, from 0 to 1."""
    import numpy as np
    from PIL import Image

    small = [image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image, np.float64).ravel() for image in small]) / 255


def _by_transformers(images: "list[Image]", label: Sequence[int | str], model: str) -> list[float]:
    import torch

    network, processor = _loaded(model)
    inputs = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
    with torch.inference_mode():
        found = network(**inputs).logits.float().softmax(dim=-1)
    names = network.config.label2id
    places = [names.get(each, each) if isinstance(each, str) else each for each in label]
    known = range(found.shape[1])
    return [float(row[_number(place, known)]) for row, place in zip(found, places, strict=True)]


@cache
def _loaded(model: str) -> Any:
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        return AutoModelForImageClassification.from_pretrained(model).eval(), AutoImageProcessor.from_pretrained(model)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"the classifier {model!r} (kwargs.model) cannot be loaded: {error}") from error


def _number(label: int | str, known: range) -> int:
    if isinstance(label, bool) or not isinstance(label, int) or label not in known:
        raise RewardError(f"a row has the label {label!r:.100}, and the classifier knows 0 to {known[-1]}")
    return label
