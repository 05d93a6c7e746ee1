"""How many workers a load asks for: within limits, and without going to and fro."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from areal.launch.fleet.autoscale import AutoscaleConfig, Load, decide

SHARES = st.floats(0, 1)
ANYTHING = st.floats(allow_nan=True, allow_infinity=True)


def limits(low: int, high: int) -> AutoscaleConfig:
    return AutoscaleConfig(min=low, max=high)


@pytest.mark.parametrize(
    ("workers", "load", "wanted"),
    [
        (2, Load(0.5, 0.0, 0.0), 4),  # half of its time the learner waits
        (2, Load(0.3, 0.0, 0.0), 3),
        (2, Load(0.9, 0.0, 0.0), 4),  # at most twice as many at once
        (2, Load(0.5, 0.0, 1.0), 2),  # a batch lies ready: it waits for something else
        (2, Load(0.15, 0.0, 0.0), 2),
        (4, Load(0.0, 0.5, 3.0), 3),
        (4, Load(0.0, 0.3, 3.0), 4),  # three would have nothing in reserve
        (4, Load(0.15, 0.9, 3.0), 4),  # both wait: for an evaluation, say
        (1, Load(0.0, 1.0, 3.0), 1),
        (8, Load(0.9, 0.0, 0.0), 8),
    ],
)
def test_what_a_load_asks_for(workers: int, load: Load, wanted: int) -> None:
    assert decide(workers, load, limits(1, 8)) == wanted


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 50), ANYTHING, ANYTHING, ANYTHING)
def test_the_limits_are_kept_whatever_is_measured(
    workers: int, low: int, more: int, learner: float, rollout: float, ready: float
) -> None:
    assert low <= decide(workers, Load(learner, rollout, ready), limits(low, low + more)) <= low + more


def measured(workers: int, demand: float, noise: float) -> Load:
    """What is measured where so many workers, a fraction too, would just keep the learner busy."""
    learner = max(0.0, 1 - workers / demand)
    rollout = max(0.0, 1 - demand / workers)
    ready = 0.0 if workers < demand else 3.0
    return Load(*(min(max(share + noise, 0.0), 1.0) for share in (learner, rollout)), ready)


@settings(max_examples=300)
@given(
    st.floats(0.05, 60),
    st.integers(1, 40),
    st.lists(st.floats(-0.03, 0.03), min_size=80, max_size=80),
    st.integers(1, 4),
    st.integers(0, 40),
)
def test_a_constant_load_moves_the_number_one_way_and_then_not_at_all(
    demand: float, workers: int, noises: list[float], low: int, more: int
) -> None:
    config = limits(low, low + more)
    workers = min(max(workers, config.min), config.max)
    numbers = [workers]
    for noise in noises:
        workers = decide(workers, measured(workers, demand, noise), config)
        numbers.append(workers)
    moves = [after - before for before, after in pairwise(numbers)]
    assert all(move >= 0 for move in moves) or all(move <= 0 for move in moves)
    exact = [workers := decide(workers, measured(workers, demand, 0.0), config) for _ in range(60)]
    assert len(set(exact[-10:])) == 1, "it comes to rest"


@given(st.floats(0.05, 60), st.integers(1, 40))
def test_where_it_rests_neither_waits_much_for_the_other(demand: float, workers: int) -> None:
    config = limits(1, 100)
    for _ in range(60):
        workers = decide(workers, measured(workers, demand, 0.0), config)
    assert workers >= 0.8 * demand - 1e-9
    assert workers <= max(math.ceil(1.25 * demand) + 1, 2)


@pytest.mark.parametrize(("low", "high"), [(0, 3), (3, 2), (1, 0)])
def test_limits_that_are_none_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValidationError):
        limits(low, high)
