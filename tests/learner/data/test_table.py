"""The same rows, wherever they are stored."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.learner.data import parquet as parquet_module
from areal.learner.data.config import RowsConfig
from areal.learner.data.shape import Shape
from areal.learner.data.table import Table, open_table

ROWS = [{"prompt": f"{number} é", "answer": number, "level": number % 3} for number in range(20)]
SHAPE = Shape(RowsConfig())


def write_lines(folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    return path


def write_packed(folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "rows.jsonl.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_parquet(folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "rows.parquet") -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), folder / name, row_group_size=6)
    return folder / name


def write_folder(folder: Path) -> Path:
    made = folder / "rows"
    made.mkdir()
    (made / "README.md").write_text("not rows")
    write_parquet(made, ROWS[15:], "c.parquet")
    write_lines(made, ROWS[:8], "a.jsonl")
    write_packed(made, ROWS[8:15], "b.jsonl.gz")
    return made


def opened(path: Path | str, shape: Shape = SHAPE, split: str = "train", subset: str | None = None) -> Table:
    return open_table("dataset.source", str(path), shape, subset=subset, split=split)


@pytest.mark.parametrize("write", [write_lines, write_packed, write_parquet, write_folder])
def test_rows_are_found_by_number_in_any_order(write: Callable[[Path], Path], tmp_path: Path) -> None:
    table = opened(write(tmp_path))
    assert len(table) == 20
    assert [table[number] for number in (19, 0, 7, 8, 14, 15, 7)] == [ROWS[n] for n in (19, 0, 7, 8, 14, 15, 7)]
    assert list(table.column("level")) == [row["level"] for row in ROWS]
    assert list(table.column("nothing")) == [None] * 20


@pytest.mark.parametrize(
    ("write", "where"),
    [
        (write_lines, "rows.jsonl, line 33"),
        (write_packed, "rows.jsonl.gz, line 17"),
        (write_parquet, "rows.parquet, row 16"),
        (write_folder, "c.parquet, row 1"),
    ],
)
def test_a_row_is_said_where_a_reader_finds_it(write: Callable[[Path], Path], where: str, tmp_path: Path) -> None:
    assert opened(write(tmp_path)).where(16).endswith(where)


def test_few_groups_of_a_parquet_file_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = opened(write_parquet(tmp_path))
    assert isinstance(table, parquet_module.Parquet)
    monkeypatch.setattr(parquet_module, "CACHED_BYTES", 2 * table._group(0).nbytes)
    for number in (0, 6, 12, 19, 3):
        assert table[number] == ROWS[number]
        assert len(table._cached) <= 2


def test_only_the_named_columns_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    shape = Shape(RowsConfig(columns={"answer": "answer"}, prompt="{{prompt}}?"))
    table = opened(write_parquet(tmp_path), shape)
    assert table[3] == {"prompt": "3 é", "answer": 3}
    assert list(table.column("level"))[:4] == [0, 1, 2, 0]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with two splits, as save_to_disk leaves it."""
    datasets = pytest.importorskip("datasets")
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:5])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_data_set_that_was_saved_has_splits(saved: Path) -> None:
    table, test = opened(f"hf:{saved}"), opened(f"hf:{saved}", split="test")
    assert (len(table), len(test)) == (20, 5)
    assert [table[number] for number in (19, 0, 7)] == [ROWS[number] for number in (19, 0, 7)]
    assert list(table.column("level")) == [row["level"] for row in ROWS]
    assert table.where(3).endswith("saved, row 3 of train")
    with pytest.raises(ConfigError, match=r"has no split 'tset' \(did you mean test\?\); it has train, test"):
        opened(f"hf:{saved}", split="tset")
    assert len(opened(f"hf:{saved / 'train'}", split="whatever")) == 20


def test_a_folder_is_loaded_as_the_hub_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    write_parquet(tmp_path, name="train-00000-of-00001.parquet")
    write_parquet(tmp_path, ROWS[:4], name="test-00000-of-00001.parquet")
    shape = Shape(RowsConfig(columns={"prompt": "prompt"}))
    table = opened(f"hf:{tmp_path}", shape, split="test")
    assert [table[number] for number in range(len(table))] == [{"prompt": row["prompt"]} for row in ROWS[:4]]
    assert list(table.column("level")) == [0, 1, 2, 0]
    with pytest.raises(ConfigError, match=r"split tset cannot be loaded \(dataset\.subset, dataset\.split\): .*tset"):
        opened(f"hf:{tmp_path}", split="tset")


def test_without_a_network_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub (ConnectTimeout)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ConfigError, match=r"hf:openai/gsm8k, subset main, split train cannot be fetched: .*hf:\./folder"
    ):
        opened("hf:openai/gsm8k", subset="main")


@pytest.mark.parametrize(("source", "module"), [("rows.parquet", "pyarrow"), ("hf:openai/gsm8k", "datasets")])
def test_a_package_that_is_missing_is_named_with_its_extra(
    source: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ConfigError, match=rf"package {module}: pip install 'areal-rl\[data\]'"):
        opened(source if source.startswith("hf:") else tmp_path / source)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x"}')[:-6])
    with pytest.raises(ConfigError, match=r"dataset\.source: .*rows\.jsonl\.gz cannot be unpacked"):
        opened(tmp_path / "rows.jsonl.gz")
    with pytest.raises(ConfigError, match=r"there is no file .*rows\.json .*\(did you mean rows\.jsonl\.gz\?\)"):
        opened(tmp_path / "rows.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no \.jsonl, \.jsonl\.gz, \.parquet file; .* named hf:"):
        opened(tmp_path / "empty")
    (tmp_path / "rows.csv").touch()
    with pytest.raises(ConfigError, match=r"rows\.csv is no \.jsonl, "):
        opened(tmp_path / "rows.csv")


def test_what_is_no_parquet_file_or_has_no_rows_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ConfigError, match=r"rows\.parquet is no Parquet file"):
        opened(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "no.parquet")
    with pytest.raises(ConfigError, match=r"no\.parquet has no rows"):
        opened(tmp_path / "no.parquet")
    with pytest.raises(ConfigError, match=r"dataset\.source: .*rows\.parquet, row 0: a row needs `prompt`"):
        opened(write_parquet(tmp_path, [{"question": "?"}]))
