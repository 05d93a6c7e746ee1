"""When a decision is made, and on what: records as the roles post them, and a clock that the test sets."""

from typing import Any

import pytest

from areal.launch.fleet.autoscale import AutoscaleConfig
from areal.launch.fleet.balance import Balance

EVERY_S = 30.0


@pytest.fixture
def balance() -> Balance:
    return Balance(AutoscaleConfig(min=1, max=4, every_s=EVERY_S))


def step(number: int, *, waits: float) -> dict[str, Any]:
    """A step of a second, of which the learner has waited that share."""
    timing = {"step_s": 1.0, "wait_s": waits, "train_s": 1 - waits}
    return {"kind": "step", "time": float(number), "step": number, "steps": 99, "epoch": 1} | timing


def worker(at: float, *, busy_s: float, name: str = "rollout-0") -> dict[str, Any]:
    alive = {"alive_s": at, "busy_s": busy_s, "tokens_generated": 0}
    return {"kind": "worker", "time": at, "worker": name, "incarnation": "a"} | alive


def ask(balance: Balance, now: float, *, workers: int = 2, steady: bool = True, ready: float = 0.0) -> int:
    return balance.wanted(workers, steady=steady, steps_ready=ready, now=now)


def show(balance: Balance, *, waits: float, busy: float = 1.0) -> None:
    for number in range(1, 6):
        balance.add(step(number, waits=waits))
        balance.add(worker(float(number), busy_s=busy * number))


def test_it_grows_once_it_has_measured_for_long_enough(balance: Balance) -> None:
    assert ask(balance, 0.0) == 2
    show(balance, waits=0.5)
    assert ask(balance, EVERY_S - 1) == 2
    assert ask(balance, EVERY_S) == 4
    assert ask(balance, EVERY_S + 1, workers=4) == 4, "what was measured before says nothing of four"
    assert ask(balance, 2 * EVERY_S + 1, workers=4) == 4, "nothing was measured"


def test_it_shrinks_where_workers_have_nothing_to_do(balance: Balance) -> None:
    ask(balance, 0.0)
    show(balance, waits=0.0, busy=0.45)
    assert ask(balance, EVERY_S, ready=3.0) == 2, "one that is busy 90 % has little in reserve"
    ask(balance, EVERY_S + 1)
    show(balance, waits=0.0, busy=0.1)
    assert ask(balance, 2 * EVERY_S + 1, ready=3.0) == 1


def test_a_few_steps_are_wanted(balance: Balance) -> None:
    ask(balance, 0.0)
    balance.add(step(1, waits=0.9))
    balance.add(step(2, waits=0.9))
    assert ask(balance, 2 * EVERY_S) == 2
    balance.add(step(3, waits=0.9))
    assert ask(balance, 2 * EVERY_S) == 4


def test_while_a_worker_starts_nothing_is_measured(balance: Balance) -> None:
    ask(balance, 0.0)
    show(balance, waits=0.5)
    assert ask(balance, EVERY_S, steady=False) == 2
    assert ask(balance, EVERY_S + 1) == 2, "it begins anew"
    assert ask(balance, 2 * EVERY_S) == 2


def test_a_number_beyond_the_limits_is_brought_back_at_once(balance: Balance) -> None:
    assert ask(balance, 0.0, workers=9, steady=False) == 4
