import json
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.learner.algorithm.config import SolvedConfig
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.solved import SolveRates

CONFIG = SolvedConfig(min_answers=4, retry_epochs=3)


class Rates:
    """Solve rates of ten rows, asked by row and epoch."""

    def __init__(self, path: Path) -> None:
        path.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(10)))
        self.dataset = Dataset(DatasetConfig(source=str(path), eval_size=0))

    def __call__(self, **options: float) -> "Rates":
        self.rates = SolveRates(CONFIG.model_copy(update=options), self.dataset)
        return self

    def position(self, row: int, epoch: int) -> int:
        return next(p for p in range(10 * epoch, 10 * epoch + 10) if self.dataset.identity(p) == row)

    def note(self, row: int, rewards: list[float], *, epoch: int) -> None:
        self.rates.note(self.position(row, epoch), rewards)

    def teaches(self, row: int, *, epoch: int) -> bool:
        return self.rates.teaches(self.position(row, epoch))


@pytest.fixture
def rates(tmp_path: Path) -> Rates:
    return Rates(tmp_path / "rows.jsonl")


def test_a_row_that_is_always_or_never_answered_rightly_teaches_nothing(rates: Rates) -> None:
    known = rates()
    known.note(1, [1.0] * 4, epoch=0)
    known.note(2, [0.0] * 4, epoch=0)
    known.note(3, [0.0, 0.0, 1.0, 0.0], epoch=0)
    assert [known.teaches(row, epoch=1) for row in (1, 2, 3, 4)] == [False, False, True, True]


def test_it_takes_so_many_answers_over_epochs(rates: Rates) -> None:
    known = rates()
    known.note(1, [1.0] * 3, epoch=0)
    assert known.teaches(1, epoch=1)
    known.note(1, [1.0], epoch=1)
    assert not known.teaches(1, epoch=2)


def test_it_is_tried_again_after_some_epochs_with_nothing_held_against_it(rates: Rates) -> None:
    known = rates()
    known.note(1, [0.0] * 8, epoch=2)
    assert [known.teaches(1, epoch=epoch) for epoch in (3, 4, 5, 6)] == [False, False, True, True]
    known.note(1, [0.0, 0.0, 0.0], epoch=5)
    assert known.teaches(1, epoch=6), "three answers do not decide"
    known.note(1, [1.0], epoch=6)
    assert known.teaches(1, epoch=7), "one of four was right"


def test_an_answer_under_way_when_it_was_decided_does_not_undecide_it(rates: Rates) -> None:
    known = rates()
    known.note(1, [1.0] * 4, epoch=1)
    known.note(1, [1.0], epoch=2)
    assert not known.teaches(1, epoch=3)


def test_without_retries_it_stays_out(rates: Rates) -> None:
    known = rates(retry_epochs=0)
    known.note(1, [1.0] * 4, epoch=0)
    assert not known.teaches(1, epoch=1000)


@pytest.mark.parametrize(("reward", "teaches"), [(0.89, True), (0.9, False)])
def test_what_counts_as_right_and_as_always(rates: Rates, reward: float, teaches: bool) -> None:
    known = rates(right_at=0.9, always_above=0.75)
    known.note(1, [1.0, 1.0, reward, 0.0], epoch=0)
    assert known.teaches(1, epoch=0) == teaches


def test_it_comes_back_from_json(rates: Rates) -> None:
    known = rates()
    known.note(7, [1.0] * 4, epoch=3)
    state = known.rates.state()
    assert state == {"7": [4, 4, 3]}
    other = rates()
    assert other.teaches(7, epoch=5)
    other.rates.load(json.loads(json.dumps(state)))
    assert not other.teaches(7, epoch=5) and other.teaches(7, epoch=6)


def test_without_a_configuration_nothing_is_kept(rates: Rates) -> None:
    off = SolveRates(None, rates.dataset)
    off.note(3, [1.0] * 1000)
    assert off.teaches(3) and off.state() == {}


def test_rows_that_never_come_again_are_refused() -> None:
    endless: Any = Dataset(DatasetConfig(source="sort", eval_size=0))
    with pytest.raises(ConfigError, match="made on the fly"):
        SolveRates(CONFIG, endless)
