"""When what has died is started again."""

from collections.abc import Sequence

import pytest

from areal.broker.rollcall import Heard, Member
from areal.launch.cluster.restarts import MAX_BACKOFF_S, STEADY_S, Restarts, is_steady


def test_it_is_started_again_later_and_later_and_then_no_more() -> None:
    restarts = Restarts(3)
    seen = []
    for _ in range(4):
        restarts.note(steady=False)
        seen.append((restarts.deaths, restarts.delay_s, restarts.exhausted))
    assert seen == [(1, 1.0, False), (2, 2.0, False), (3, 4.0, False), (4, 8.0, True)]


def test_one_that_was_steady_has_died_once() -> None:
    restarts = Restarts(1)
    for _ in range(5):
        restarts.note(steady=True)
        assert (restarts.deaths, restarts.delay_s, restarts.exhausted) == (1, 1.0, False)
    restarts.note(steady=False)
    assert restarts.exhausted


def test_where_it_may_die_once_it_is_not_started_again() -> None:
    restarts = Restarts(0)
    restarts.note(steady=True)
    assert restarts.exhausted


def test_no_delay_is_longer_than_a_minute() -> None:
    restarts = Restarts(5000)
    for _ in range(5000):
        restarts.note(steady=False)
    assert restarts.delay_s == MAX_BACKOFF_S == 60.0


def heard(name: str, *, ago_s: float, active_at: float) -> Heard:
    return Heard(Member(name, "rollout", "box", 1, 100.0, active_at, 3), ago_s, silent=False)


WORKED = heard("a", ago_s=1.0, active_at=101.0)


@pytest.mark.parametrize(
    ("lived_s", "roll", "steady"),
    [
        (STEADY_S + 1, [WORKED], True),
        (STEADY_S, [WORKED], False),
        (STEADY_S + 1, [heard("a", ago_s=1.0, active_at=100.0)], False),  # it has done nothing
        (STEADY_S + 1, [heard("a", ago_s=2 * STEADY_S, active_at=101.0)], False),  # that was the one before it
        (STEADY_S + 1, [heard("b", ago_s=1.0, active_at=101.0)], False),
        (STEADY_S + 1, [], False),
    ],
)
def test_who_is_steady(lived_s: float, roll: Sequence[Heard], steady: bool) -> None:
    assert is_steady("a", lived_s, lambda: roll) is steady


def test_the_roll_is_not_asked_for_one_that_lived_briefly() -> None:
    def roll() -> Sequence[Heard]:
        raise AssertionError("asked")

    assert not is_steady("a", 1.0, roll)
