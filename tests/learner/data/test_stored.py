"""Orders of stored rows: as they are, and easy ones first."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import ConfigError
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset

Open = Callable[..., Dataset]


def opened(folder: Path, difficulties: list[Any], **options: Any) -> Dataset:
    path = folder / "rows.jsonl"
    rows = [{"prompt": str(number), "difficulty": value} for number, value in enumerate(difficulties)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset(DatasetConfig.model_validate({"source": str(path), "eval_size": 0, **options}))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 40), held_out=st.integers(0, 10), seed=st.integers(0, 9), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation_of_what_is_not_held_out(
    count: int, held_out: int, seed: int, epoch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    held_out = min(held_out, count - 1)
    folder = tmp_path_factory.mktemp("rows")
    dataset = opened(folder, [0] * count, eval_size=held_out, seed=seed)
    trained = count - held_out
    positions = range(epoch * trained, (epoch + 1) * trained)
    rows = [int(dataset.train_row(position)["prompt"]) for position in positions]
    assert sorted(rows) == list(range(trained)) == sorted(dataset.identity(position) for position in positions)
    assert {dataset.epoch(position) for position in positions} == {epoch}
    assert [int(row["prompt"]) for row in dataset.eval_rows()] == list(range(trained, count))
    again = opened(folder, [0] * count, eval_size=held_out, seed=seed)
    assert [int(again.train_row(position)["prompt"]) for position in reversed(positions)] == rows[::-1]


def test_harder_rows_are_admitted_step_by_step(tmp_path: Path) -> None:
    difficulties = [1, 2, 3, 4, 5] * 4
    random.Random(0).shuffle(difficulties)
    curriculum = {"start": 1, "positions": 40, "steps": 4}
    dataset = opened(tmp_path, difficulties, curriculum=curriculum)
    rows = [dataset.train_row(position) for position in range(100)]
    hardest = [max(row["difficulty"] for row in rows[begin : begin + 10]) for begin in range(0, 50, 10)]
    assert hardest == [1, 2, 3, 4, 5]
    for stage, admitted in enumerate((4, 8, 12, 16)):  # each time a permutation of those admitted, begun anew
        first = [row["prompt"] for row in rows[10 * stage : 10 * stage + min(10, admitted)]]
        assert len(set(first)) == len(first)
    assert sorted(int(row["prompt"]) for row in rows[40:60]) == list(range(20))
    assert [dataset.epoch(position) for position in (0, 3, 4, 8, 9, 10, 18, 20, 39, 40, 60)] == [
        *(0, 0, 1, 2, 2),
        *(3, 4),
        *(5, 6),
        *(7, 8),
    ]
    assert dataset.num_rows == 20
    assert {dataset.identity(position): rows[position]["prompt"] for position in range(100)} == {
        number: str(number) for number in range(20)
    }


@settings(max_examples=60, deadline=None)
@given(
    difficulties=st.lists(st.floats(0, 10, width=16), min_size=1, max_size=12),
    steps=st.integers(1, 7),
    positions=st.integers(1, 50),
    rise=st.floats(0, 8, width=16),
)
def test_no_row_comes_before_its_time_and_resuming_changes_nothing(
    difficulties: list[float], steps: int, positions: int, rise: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = min(difficulties)
    curriculum = {"start": start, "end": start + rise, "positions": positions, "steps": steps}
    folder = tmp_path_factory.mktemp("rows")
    dataset = opened(folder, difficulties, curriculum=curriculum)
    rows = [dataset.train_row(position) for position in range(80)]
    for position, row in enumerate(rows):
        stage = min(steps, math.floor(steps * position / positions))
        assert row["difficulty"] <= (start + rise if stage == steps else start + rise * stage / steps)
    admitted = [number for number, value in enumerate(difficulties) if value <= start + rise]
    last = rows[positions : positions + len(admitted)]
    assert sorted(int(row["prompt"]) for row in last) == admitted
    epochs = [dataset.epoch(position) for position in range(80)]
    assert epochs == sorted(epochs)
    resumed = opened(folder, difficulties, curriculum=curriculum)
    assert [resumed.train_row(position) for position in range(79, 40, -1)] == rows[79:40:-1]


@pytest.mark.parametrize(
    ("difficulties", "curriculum", "message"),
    [
        ([1, "2"], {"start": 1}, r"line 2: the difficulty \(column difficulty\) is '2', .*dataset\.curriculum\.column"),
        ([1, None], {"start": 1}, r"line 2: the difficulty .* is None"),
        ([1, 2], {"start": 1, "column": "level"}, r"line 1: the difficulty \(column level\) is None"),
        ([2, 3], {"start": 1}, r"curriculum\.start: no row has a difficulty of 1 or less; the easiest has 2"),
        ([2, 3], {"start": 4}, r"curriculum\.start: 4 is more than the greatest difficulty, 3"),
    ],
)
def test_a_curriculum_that_rows_do_not_fit_is_refused(
    difficulties: list[Any], curriculum: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, difficulties, curriculum={"positions": 10, **curriculum})


def test_a_curriculum_rises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end \(1\) must not be less than start \(2\)"):
        opened(tmp_path, [1], curriculum={"start": 2, "end": 1, "positions": 1})


def test_rows_held_out_may_be_another_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {name: [{"question": f"{name} {n}"} for n in range(6)] for name in ("train", "test")}
    made = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    made.save_to_disk(str(tmp_path / "saved"))
    config = {"source": f"hf:{tmp_path / 'saved'}", "eval_split": "test", "columns": {"prompt": "question"}}
    dataset = Dataset(DatasetConfig.model_validate({**config, "eval_size": 2}))
    assert sorted(dataset.train_row(position)["prompt"] for position in range(6)) == [f"train {n}" for n in range(6)]
    assert dataset.eval_rows() == [{"prompt": "test 0"}, {"prompt": "test 1"}]
    with pytest.raises(ConfigError, match=r"eval_size: 7 rows wanted, but .*saved, split test has 6"):
        Dataset(DatasetConfig.model_validate({**config, "eval_size": 7}))


def test_only_what_the_hub_has_is_split() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.eval_split: sort has no splits"):
        Dataset(DatasetConfig(source="sort", eval_split="test"))
