import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from areal.learner.judge import Judge, diversity, frechet
from areal.learner.pictures import Pictures, load_pictures


def drawn(seed: int, mean: float = 0.0, scale: float = 1.0, count: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return mean + scale * rng.normal(size=(count, 5)) @ np.triu(np.ones((5, 5)))


def test_the_distance_is_that_of_the_formula() -> None:
    left, right = drawn(0), drawn(1, 0.3, 1.5)
    covariances = [np.cov(each, rowvar=False) for each in (left, right)]
    shared = sqrtm(covariances[0] @ covariances[1]).real
    wanted = np.square(left.mean(0) - right.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * shared)
    assert frechet(left, right) == pytest.approx(wanted, rel=1e-6)
    assert frechet(left, left) == pytest.approx(0, abs=1e-8)


def test_pictures_that_are_all_the_same_have_no_distance_that_is_no_number() -> None:
    assert frechet(np.zeros((9, 4)), np.ones((9, 4))) == pytest.approx(4)


@pytest.mark.parametrize(("left", "right"), [(1, 9), (9, 1), (0, 9)])
def test_fewer_than_two_pictures_have_no_distance(left: int, right: int) -> None:
    assert frechet(np.zeros((left, 4)), np.ones((right, 4))) is None


def test_diversity_is_within_a_class() -> None:
    """Of two classes, one with pictures at 0 and 2, the other with two alike: the mean square is (1 + 1 + 0 + 0)/4."""
    pictures = np.array([[0.0], [2.0], [7.0], [7.0]])
    assert diversity(pictures, np.array([0, 0, 1, 1])) == pytest.approx(0.5**0.5)


@pytest.fixture(scope="module")
def digits() -> tuple[Pictures, Pictures]:
    return load_pictures("digits", 8, key="evaluation.judge").split()


def test_real_digits_are_found_good(digits: tuple[Pictures, Pictures]) -> None:
    learned, held_out = digits
    assert len(held_out.images) == 300 and len(learned.images) == 1497
    assert float(learned.images.min()) == -1 and float(learned.images.max()) == 1
    real = Judge(learned, held_out).of_real()
    assert real.accuracy > 0.97 and 0.2 < real.frechet < 1 and 0.2 < real.diversity < 0.5


def test_noise_and_a_single_picture_are_found_out(digits: tuple[Pictures, Pictures]) -> None:
    learned, held_out = digits
    judge, labels = Judge(learned, held_out), torch.arange(200) % 10
    noise = judge.of(torch.rand(200, 1, 8, 8) * 2 - 1, labels)
    assert noise.accuracy < 0.3 and noise.frechet > 5
    same = judge.of(learned.images[:1].expand(200, 1, 8, 8), labels)
    assert same.accuracy == pytest.approx(0.1) and same.diversity == 0 and same.frechet > 5
