"""What is held out is not trained on, by whatever part of a data set."""

import json
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset


def write(folder: Path, name: str, count: int = 100) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": f"{name} {number}"}) + "\n" for number in range(count)))
    return str(path)


def mixed(*parts: dict[str, Any], eval_size: int = 40) -> Dataset:
    named = [{"name": f"part {number}", **part} for number, part in enumerate(parts)]
    return Dataset(DatasetConfig.model_validate({"mixture": named, "eval_size": eval_size}))


def prompts(dataset: Dataset, trained: int = 600) -> tuple[list[str], set[str]]:
    """Those that are held out, and those of the first training rows."""
    held_out = [row["prompt"] for row in dataset.eval_rows()]
    return held_out, {dataset.train_row(position)["prompt"] for position in range(trained)}


def test_parts_of_the_same_file_hold_out_the_same_rows_and_evaluate_each_once(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl")
    (tmp_path / "link.jsonl").symlink_to(source)
    parts = {"source": source, "weight": 3}, {"source": str(tmp_path / "link.jsonl"), "weight": 1}
    held_out, trained = prompts(mixed(*parts))
    assert held_out == [f"a.jsonl {number}" for number in range(60, 100)]
    assert trained == {f"a.jsonl {number}" for number in range(60)}


def test_a_part_that_is_evaluated_elsewhere_leaves_out_what_another_holds_out(tmp_path: Path) -> None:
    source, other = write(tmp_path, "a.jsonl"), write(tmp_path, "b.jsonl")
    held_out, trained = prompts(mixed({"source": source}, {"source": source, "eval_source": other}))
    assert held_out == [f"a.jsonl {number}" for number in range(80, 100)] + [f"b.jsonl {n}" for n in range(20)]
    assert trained == {f"a.jsonl {number}" for number in range(80)}


@pytest.mark.parametrize(("rows", "distinct"), [(50, 40), (30, 30)])
def test_parts_with_the_same_eval_source_evaluate_other_rows_of_it(rows: int, distinct: int, tmp_path: Path) -> None:
    other = write(tmp_path, "eval.jsonl", rows)
    held_out, _ = prompts(mixed(*({"source": name, "eval_source": other} for name in ("sort", "count"))), trained=0)
    assert (len(held_out), len(set(held_out))) == (40, distinct)


@pytest.mark.parametrize("source", ["arithmetic", "reasoning_gym:chain_sum"])
def test_parts_that_make_the_same_rows_hold_out_different_ones(source: str) -> None:
    if source != "arithmetic":
        pytest.importorskip("reasoning_gym")
    kwargs = {} if source == "arithmetic" else {"max_terms": 2, "max_digits": 1}
    held_out, trained = prompts(mixed(*({"source": source, "kwargs": kwargs, "weight": weight} for weight in (3, 1))))
    assert len(set(held_out)) == len(held_out) == 40
    assert trained and not trained & set(held_out)


def test_rows_to_train_on_are_not_those_to_evaluate_on(tmp_path: Path) -> None:
    source, link = write(tmp_path, "a.jsonl"), tmp_path / "link.jsonl"
    link.symlink_to(source)
    for same in (source, str(link), str(tmp_path)):
        with pytest.raises(
            ConfigError, match=r"^dataset\.eval_source: .* names rows that are trained on, .*dataset\.source"
        ):
            Dataset(DatasetConfig(source=source, eval_source=same, eval_size=40))
    with pytest.raises(
        ConfigError, match=r"^dataset\.mixture\[0\]\.eval_source: .* those of dataset\.mixture\[1\]\.source"
    ):
        mixed({"source": "sort", "eval_source": source}, {"source": source})


def test_splits_to_train_on_are_not_those_to_evaluate_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    alone = datasets.Dataset.from_list([{"prompt": str(number)} for number in range(6)])
    alone.save_to_disk(str(tmp_path / "alone"))
    datasets.DatasetDict({"train": alone, "test": alone}).save_to_disk(str(tmp_path / "splits"))
    for folder, split in (("splits", "train"), ("alone", "test")):  # what was saved alone has no splits
        with pytest.raises(ConfigError, match=rf"^dataset\.eval_split: {split} names rows that are trained on"):
            Dataset(DatasetConfig(source=f"hf:{tmp_path / folder}", eval_split=split, eval_size=2))
    splits = f"hf:{tmp_path / 'splits'}"
    with pytest.raises(ConfigError, match=r"^dataset\.eval_source: "):
        Dataset(DatasetConfig(source=splits, eval_source=splits, eval_size=2))
    assert len(Dataset(DatasetConfig(source=splits, eval_split="test", eval_size=2)).eval_rows()) == 2


def test_a_file_and_its_folder_are_parts_only_where_neither_holds_out_rows(tmp_path: Path) -> None:
    source, other = write(tmp_path, "rows/a.jsonl"), write(tmp_path, "b.jsonl")
    folder = str(tmp_path / "rows")
    write(tmp_path, "rows/c.jsonl")
    with pytest.raises(
        ConfigError, match=r"^dataset\.mixture\[0\]\.source: .* last 20 rows are held out; name other rows"
    ):
        mixed({"source": source}, {"source": folder})
    assert len(mixed(*({"source": each, "eval_source": other} for each in (source, folder))).eval_rows()) == 40
