"""A search for the linear combination of saved weights that scores best, after LCSC (arXiv 2404.02241)."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PARENTS = 4
START_SPREAD = 0.3
GROWTH = 1.2


def search(
    score: Callable[[list[float]], float], size: int, *, evaluations: int, seed: int
) -> tuple[list[float], float]:
    """The coefficients found to score highest, and their score. They sum to 1, but may be negative or above 1.

    It begins with the mean and with each of them alone. Then each candidate lies between (or a little beyond) two of
    the PARENTS best, moved by Gaussian noise; its spread grows when that makes a new best, and shrinks when not (the
    1/5 rule). A score that is not finite counts as the worst.

    evaluations: how often `score` may be called, size + 1 at least.
    """
    assert evaluations > size > 0, (evaluations, size)
    rng = np.random.default_rng(seed)
    tried: list[tuple[float, NDArray[np.float64]]] = []

    def try_out(candidate: NDArray[np.float64]) -> bool:
        """Whether it is a new best."""
        value = score(candidate.tolist())
        tried.append((value if math.isfinite(value) else -math.inf, candidate))
        tried.sort(key=lambda entry: -entry[0])
        return tried[0][1] is candidate

    for candidate in [np.full(size, 1 / size), *np.eye(size)]:
        try_out(candidate)
    spread = START_SPREAD
    while len(tried) < evaluations:
        first, second = rng.choice(min(PARENTS, len(tried)), 2, replace=False)
        share = rng.uniform(-0.25, 1.25)
        noise = rng.normal(0, spread, size)
        child = share * tried[first][1] + (1 - share) * tried[second][1] + noise - noise.mean()
        spread *= GROWTH if try_out(child) else GROWTH**-0.25
    best, coefficients = tried[0]
    return coefficients.tolist(), best
