"""What pictures are worth apart from the reward: whether they are of their class, how far from real ones, how various.

Legend: N pictures, D numbers of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.svm import SVC
from torch import Tensor

from ..denoising.images import to_images
from .picture_files import DIGITS
from .pictures import DIGIT_SIZE, Pictures, from_images, load_pictures

Matrix = NDArray[np.float64]

KEY = "evaluation.judge"
COMPARED_SIZE = 32
"""Pixels that pictures of a folder are compared in."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """accuracy: the share that the judge takes for what they were meant to be.

    frechet: the distance to held-out pictures, None of fewer than two; diversity: how far pictures of a class are from its mean, a pixel, in
    units of half the range.
    """

    accuracy: float
    frechet: float | None
    diversity: float


class Judge:
    """A classifier that has seen the pictures that a model learned from, and compares with those held out."""

    def __init__(self, learned: Pictures, held_out: Pictures) -> None:
        self._learned_ND = _flat(learned.images)
        self._classifier = SVC(C=10, gamma="scale").fit(self._learned_ND, learned.labels.numpy())
        self._held_out = held_out
        self._mode = "L" if held_out.images.shape[1] == 1 else "RGB"

    @classmethod
    def of_source(cls, source: str, width: int) -> "Judge":
        """One who knows the pictures of a source (load_pictures), as they look once made `width` wide. Raises ConfigError."""
        size = DIGIT_SIZE if source == DIGITS else min(width, COMPARED_SIZE)
        pictures = load_pictures(source, size, key=KEY)
        wide = [image.resize((width, width), Image.Resampling.BICUBIC) for image in to_images(pictures.images)]
        return cls(*replace(pictures, images=from_images(wide, size)).split())

    def of_images(self, images: Sequence[Image.Image], meant: Sequence[int]) -> Verdict:
        """Of images that were meant to be of these classes."""
        size = self._held_out.images.shape[-1]
        return self.of(from_images(images, size, mode=self._mode), torch.tensor(meant))

    def of(self, images: Tensor, labels: Tensor) -> Verdict:
        """Of pictures [N, C, H, W] in [−1, 1] that were meant to be of these classes int64[N]."""
        pictures_ND, meant_N = _flat(images.clamp(-1, 1)), labels.numpy()
        return Verdict(
            accuracy=float(self._classifier.score(pictures_ND, meant_N)),
            frechet=frechet(pictures_ND, _flat(self._held_out.images)),
            diversity=diversity(pictures_ND, meant_N),
        )

    def of_real(self) -> Verdict:
        """What is the best to be had: of those held out, and of the distance of those learned from to them."""
        found = self.of(self._held_out.images, self._held_out.labels)
        return replace(found, frechet=frechet(self._learned_ND, _flat(self._held_out.images)))


def frechet(left_ND: Matrix, right_ND: Matrix) -> float | None:
    """The Fréchet distance of two Gaussians with the means and covariances of these (Heusel et al., arXiv 1706.08500).

    ‖μ − μ'‖² + tr(Σ + Σ' − 2·(Σ^½ Σ' Σ^½)^½); None where there are fewer than two of either, which have no covariance.
    """
    if min(len(left_ND), len(right_ND)) < 2:
        return None
    covariance_DD, other_DD = (np.cov(each, rowvar=False).astype(np.float64) for each in (left_ND, right_ND))
    root_DD = _root(covariance_DD)
    shared = np.sqrt(np.linalg.eigvalsh(root_DD @ other_DD @ root_DD).clip(0)).sum()
    apart = np.square(left_ND.mean(0) - right_ND.mean(0)).sum()
    return float(apart + np.square(root_DD).sum() + np.trace(other_DD) - 2 * shared)


def diversity(pictures_ND: Matrix, labels_N: NDArray[np.int64]) -> float:
    """The root mean square of what pictures differ by from the mean of their class."""
    apart = [
        of_class - of_class.mean(0) for of_class in (pictures_ND[labels_N == label] for label in np.unique(labels_N))
    ]
    return float(np.sqrt(np.square(np.concatenate(apart)).mean()))


def _root(covariance_DD: Matrix) -> Matrix:
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    root_DD: Matrix = (vectors_DD * np.sqrt(values_D.clip(0))) @ vectors_DD.T
    return root_DD


def _flat(images: Tensor) -> Matrix:
    return images.flatten(1).double().numpy()
