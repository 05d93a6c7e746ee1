import json

import pytest

from areal.learner.algorithm.config import SolvedConfig
from areal.learner.solved import SolveRates

CONFIG = SolvedConfig(min_answers=4, retry_epochs=3)


def rates(**options: float) -> SolveRates:
    return SolveRates(CONFIG.model_copy(update=options))


def test_a_row_that_is_always_or_never_answered_rightly_teaches_nothing() -> None:
    known = rates()
    known.note(1, [1.0] * 4, epoch=0)
    known.note(2, [0.0] * 4, epoch=0)
    known.note(3, [0.0, 0.0, 1.0, 0.0], epoch=0)
    assert [known.teaches(row, epoch=1) for row in (1, 2, 3, 4)] == [False, False, True, True]


def test_it_takes_so_many_answers_over_epochs() -> None:
    known = rates()
    known.note(1, [1.0] * 3, epoch=0)
    assert known.teaches(1, epoch=1)
    known.note(1, [1.0], epoch=1)
    assert not known.teaches(1, epoch=2)


def test_it_is_tried_again_after_some_epochs_with_nothing_held_against_it() -> None:
    known = rates()
    known.note(1, [0.0] * 8, epoch=2)
    assert [known.teaches(1, epoch=epoch) for epoch in (3, 4, 5, 6)] == [False, False, True, True]
    known.note(1, [0.0, 0.0, 0.0], epoch=5)
    assert known.teaches(1, epoch=6), "three answers do not decide"
    known.note(1, [1.0], epoch=6)
    assert known.teaches(1, epoch=7), "one of four was right"


def test_an_answer_under_way_when_it_was_decided_does_not_undecide_it() -> None:
    known = rates()
    known.note(1, [1.0] * 4, epoch=1)
    known.note(1, [1.0], epoch=2)
    assert not known.teaches(1, epoch=3)


def test_without_retries_it_stays_out() -> None:
    known = rates(retry_epochs=0)
    known.note(1, [1.0] * 4, epoch=0)
    assert not known.teaches(1, epoch=10**6)


@pytest.mark.parametrize(("reward", "teaches"), [(0.89, True), (0.9, False)])
def test_what_counts_as_right_and_as_always(reward: float, teaches: bool) -> None:
    known = rates(right_at=0.9, always_above=0.75)
    known.note(1, [1.0, 1.0, reward, 0.0], epoch=0)
    assert known.teaches(1, epoch=0) == teaches


def test_it_comes_back_from_json() -> None:
    known, other = rates(), rates()
    known.note(7, [1.0] * 4, epoch=3)
    other.load(json.loads(json.dumps(known.state())))
    assert not other.teaches(7, epoch=5) and other.teaches(7, epoch=6)
    assert other.state() == known.state() == {"7": [4, 4, 3]}
