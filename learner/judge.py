"""What pictures are worth apart from the reward: whether they are of their class, how far from real ones, how various.

Legend: N pictures, D numbers of one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC
from torch import Tensor

from .pictures import Pictures

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """accuracy: the share that the judge takes for what they were meant to be.

    frechet: the distance to held-out pictures; diversity: how far pictures of a class are from its mean, a pixel, in
    units of half the range.
    """

    accuracy: float
    frechet: float
    diversity: float


class Judge:
    """A classifier that has seen the pictures that a model learned from, and compares with those held out."""

    def __init__(self, learned: Pictures, held_out: Pictures) -> None:
        self._learned_ND = _flat(learned.images)
        self._classifier = SVC(C=10, gamma="scale").fit(self._learned_ND, learned.labels.numpy())
        self._held_out = held_out

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


def frechet(left_ND: Matrix, right_ND: Matrix) -> float:
    """The Fréchet distance of two Gaussians with the means and covariances of these (Heusel et al., arXiv 1706.08500).

    ‖μ − μ'‖² + tr(Σ + Σ' − 2·(Σ^½ Σ' Σ^½)^½)
    """
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
