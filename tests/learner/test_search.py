import math

import numpy as np
import pytest

from areal.learner.search import search


@pytest.mark.parametrize(("size", "evaluations", "error"), [(2, 100, 0.002), (3, 200, 0.01), (5, 400, 0.01)])
def test_finds_an_optimum_outside_the_convex_hull(size: int, evaluations: int, error: float) -> None:
    optimum = np.array([1.4, -0.4, *[0.0] * (size - 2)])
    calls = []

    def score(coefficients: list[float]) -> float:
        calls.append(coefficients)
        return -float(np.sum((np.array(coefficients) - optimum) ** 2))

    found, best = search(score, size, evaluations=evaluations, seed=1)
    assert np.abs(np.array(found) - optimum).max() < error and best == score(found)
    assert len(calls) == evaluations + 1
    assert all(math.isclose(math.fsum(each), 1.0, abs_tol=1e-9) for each in calls)


def test_begins_with_the_mean_and_each_alone() -> None:
    calls: list[list[float]] = []
    found, best = search(lambda c: calls.append(c) or -len(calls), 3, evaluations=4, seed=0)  # type: ignore[func-returns-value]
    assert calls == [[1 / 3] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (found, best) == ([1 / 3] * 3, -1)


def test_the_same_seed_is_the_same_search() -> None:
    def score(coefficients: list[float]) -> float:
        return -abs(coefficients[0] - 0.7)

    first, second, other = (search(score, 3, evaluations=30, seed=seed)[0] for seed in (4, 4, 5))
    assert first == second != other


def test_a_score_that_is_not_finite_is_the_worst() -> None:
    def score(coefficients: list[float]) -> float:
        return math.nan if coefficients[0] > 0.4 else math.inf if coefficients[0] < 0 else coefficients[0]

    found, best = search(score, 2, evaluations=60, seed=0)
    assert 0 <= best <= 0.4 and found[0] == best
    assert search(lambda _: math.nan, 2, evaluations=5, seed=0)[1] == -math.inf
