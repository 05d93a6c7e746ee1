import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import ConfigError
from areal.learner.config import DatasetConfig
from areal.learner.data.mixture import Pattern
from areal.learner.dataset import Dataset

weights_of_parts = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def test_the_pattern_of_two_to_one() -> None:
    pattern = Pattern([Fraction(2), Fraction(1)])
    assert [pattern.part(position) for position in range(6)] == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    assert (pattern.period, pattern.counts(5), pattern.after(0, 3), pattern.after(1, 2)) == (3, [3, 2], 4, 5)


@given(weights_of_parts, st.integers(0, 500))
def test_every_part_has_its_share_up_to_any_position(weights: list[int], positions: int) -> None:
    pattern = Pattern([Fraction(weight) for weight in weights])
    counts = Counter(pattern.part(position)[0] for position in range(positions))
    assert pattern.counts(positions) == [counts[part] for part in range(len(weights))]
    for part, weight in enumerate(weights):
        assert abs(counts[part] - positions * weight / sum(weights)) < 1


@given(weights_of_parts, st.integers(0, 10**12))
def test_positions_of_a_part_follow_each_other(weights: list[int], begin: int) -> None:
    pattern = Pattern([Fraction(weight) for weight in weights])
    upcoming = pattern.counts(begin)
    for position in range(begin, begin + 50):
        part, own = pattern.part(position)
        assert own == upcoming[part]
        upcoming[part] += 1
        assert pattern.after(part, own + 1) == position + 1


def test_weights_may_be_fractions_that_make_a_short_pattern() -> None:
    assert Pattern([Fraction("0.7"), Fraction("0.3")]).counts(1000) == [700, 300]
    with pytest.raises(ConfigError, match=r"weights 0\.12345, 1 shares are whole numbers only of 22469 rows"):
        Pattern([Fraction("0.12345"), Fraction(1)])


def write(folder: Path, name: str, count: int) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": f"{name} {number}", "n": number}) + "\n" for number in range(count)))
    return str(path)


@pytest.fixture
def parts(tmp_path: Path) -> list[dict[str, Any]]:
    return [
        {"source": write(tmp_path, "a.jsonl", 10), "weight": 3},
        {"source": write(tmp_path, "b.jsonl", 7), "weight": 1, "name": "bees", "system": "Buzz."},
    ]


def mixed(parts: list[dict[str, Any]], **options: Any) -> Dataset:
    return Dataset(DatasetConfig.model_validate({"mixture": parts, **options}))


def test_each_part_keeps_its_own_epochs_and_says_its_name(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts, eval_size=4)
    rows = [dataset.train_row(position) for position in range(80)]
    by_part = {name: [row for row in rows if row["source"] == name] for name in ("a.jsonl", "bees")}
    assert {name: len(own) for name, own in by_part.items()} == {"a.jsonl": 60, "bees": 20}
    assert "messages" in by_part["bees"][0] and "messages" not in by_part["a.jsonl"][0]
    for name, trained in (("a.jsonl", 7), ("bees", 6)):  # of 4 held out, 3 and 1
        for begin in range(0, len(by_part[name]) - trained, trained):
            assert sorted(row["n"] for row in by_part[name][begin : begin + trained]) == list(range(trained))
    assert [(row["source"], row["n"]) for row in dataset.eval_rows()] == [
        *(("a.jsonl", n) for n in (7, 8, 9)),
        ("bees", 6),
    ]


def test_rows_of_all_parts_are_told_apart_and_come_within_an_epoch(parts: list[dict[str, Any]]) -> None:
    dataset = mixed(parts, eval_size=0)
    assert dataset.num_rows is not None
    seen: dict[int, dict[str, Any]] = {}
    for position in range(dataset.num_rows):
        row = dataset.train_row(position)
        assert seen.setdefault(dataset.identity(position), row) == row
    assert len(seen) == 17
    assert len({dataset.identity(position) for position in range(dataset.num_rows - 1)}) == 16
    epochs = [dataset.epoch(position) for position in range(40) if dataset.train_row(position)["source"] == "a.jsonl"]
    assert epochs == [0] * 10 + [1] * 10 + [2] * 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 5))
def test_a_resumed_mixture_goes_on_with_the_same_rows(begin: int, seed: int) -> None:
    config = DatasetConfig.model_validate(
        {"mixture": [{"source": "sort"}, {"source": "countdown", "weight": 0.5}], "eval_size": 2, "seed": seed}
    )
    first, resumed = Dataset(config), Dataset(config)
    for position in range(5):
        first.train_row(position)
    assert [first.train_row(p) for p in range(begin, begin + 5)] == [
        resumed.train_row(p) for p in range(begin, begin + 5)
    ]


def test_rows_that_never_come_again_make_a_mixture_without_epochs(parts: list[dict[str, Any]]) -> None:
    assert mixed([*parts, {"source": "sort"}], eval_size=0).num_rows is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "neither is given"),
        ({"source": "sort", "mixture": [{"source": "count"}]}, "both are given"),
        ({"mixture": [{"source": "count"}], "system": "Hi."}, r"system is said of each part .*mixture\[…\]\.system"),
    ],
)
def test_a_source_or_a_mixture_is_wanted(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetConfig.model_validate(config)


def test_what_is_wrong_with_a_part_is_said_of_that_part(parts: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.mixture\[2\]\.source: 'srot' is neither .*did you mean sort\?"):
        mixed([*parts, {"source": "srot"}], eval_size=0)
    with pytest.raises(ConfigError, match="two parts are called bees"):
        mixed([*parts, {"source": "sort", "name": "bees"}])
