import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset
from areal.learner.problems import PROBLEMS

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines (rows, or text as it is) into a .jsonl file."""

    def write(*lines: Any, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return str(path)

    return write


def test_classes_come_as_often_and_in_an_order_of_the_seed() -> None:
    data = Dataset(DatasetConfig(source="digits", eval_size=12, seed=3))
    rows = [data.train_row(position) for position in range(40)]
    for epoch in range(4):
        assert sorted(row["label"] for row in rows[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert rows[:10] != rows[10:20] and rows[4] == {"prompt": str(rows[4]["label"]), "label": rows[4]["label"]}
    assert [data.identity(position) for position in range(40)] == [row["label"] for row in rows]
    assert (data.num_rows, data.epoch(10)) == (10, 1)
    assert [row["label"] for row in data.eval_rows()] == [*range(10), 0, 1]
    other = Dataset(DatasetConfig(source="digits", seed=4))
    assert rows != [other.train_row(position) for position in range(40)]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{index} é", "answer": index} for index in range(count)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_made_rows_follow_from_seed_and_position(name: str) -> None:
    config = DatasetConfig(source=name, eval_size=20, seed=5)
    first, again = Dataset(config), Dataset(config)
    rows = [first.train_row(position) for position in range(50)]
    assert rows == [again.train_row(position) for position in reversed(range(50))][::-1]
    other = Dataset(config.model_copy(update={"seed": 6}))
    assert rows != [other.train_row(position) for position in range(50)]
    assert first.eval_rows() == other.eval_rows()


@pytest.mark.parametrize("name", PROBLEMS)
def test_made_rows_are_never_held_out_ones(name: str) -> None:
    dataset = Dataset(DatasetConfig(source=name, eval_size=100))
    held_out = {row["prompt"] for row in dataset.eval_rows()}
    assert len(held_out) == 100
    assert not held_out & {dataset.train_row(position)["prompt"] for position in range(1000)}


def test_more_rows_than_a_problem_can_spare_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"eval_size: 256 .* 200 that arithmetic has; at most .* \(100\)"):
        Dataset(DatasetConfig(source="arithmetic", eval_size=256))


def test_each_epoch_of_a_file_holds_every_row_in_another_order(write: Write) -> None:
    rows = numbered(40)
    dataset = Dataset(DatasetConfig(source=write(*rows), eval_size=8))
    first, second = ([dataset.train_row(epoch * 32 + place)["answer"] for place in range(32)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(32))
    assert first != second
    assert dataset.train_row(3)["answer"] == first[3]
    assert dataset.eval_rows() == rows[32:]


def test_the_order_depends_on_the_seed(write: Write) -> None:
    source = write(*numbered(40))
    orders = [
        [
            Dataset(DatasetConfig(source=source, eval_size=0, seed=seed)).train_row(place)["answer"]
            for place in range(40)
        ]
        for seed in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]


def test_held_out_rows_can_come_from_a_file(write: Write) -> None:
    evaluation = write(*numbered(5), name="eval.jsonl")
    dataset = Dataset(DatasetConfig(source=write(*numbered(3)), eval_source=evaluation, eval_size=4))
    assert sorted(dataset.train_row(place)["answer"] for place in range(3)) == [0, 1, 2]
    assert dataset.eval_rows() == numbered(4)


def test_a_made_problem_can_be_evaluated_on_a_file(write: Write) -> None:
    dataset = Dataset(DatasetConfig(source="sort", eval_source=write(*numbered(5)), eval_size=5))
    assert dataset.eval_rows() == numbered(5)


def test_blank_lines_and_messages_are_fine(write: Write) -> None:
    row = {"messages": [{"role": "user", "content": "hello"}], "id": 1}
    assert Dataset(DatasetConfig(source=write("", row, "  "), eval_size=0)).train_row(7) == row


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.source: there is no file .*nothing\.jsonl"):
        Dataset(DatasetConfig(source=str(tmp_path / "nothing.jsonl")))


def test_an_unknown_problem_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'sorrt' is neither .* \(did you mean sort\?\)"):
        Dataset(DatasetConfig(source="sorrt"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', r"line 2: not JSON"),
        ("[1]", r"line 2: a list, where a row"),
        (
            {"question": "?", "answer": 1},
            r"line 2: a row needs `prompt` or `messages`; its columns are question, answer",
        ),
        ({"prompt": 3}, r"line 2: `prompt` must be text, not int"),
        ({"messages": []}, r"line 2: `messages` must be a list"),
        ({"messages": ["hello"]}, r"line 2: `messages` must be a list"),
    ],
)
def test_a_wrong_line_is_named(write: Write, line: Any, message: str) -> None:
    source = write({"prompt": "right"}, line)
    with pytest.raises(ConfigError, match=message):
        Dataset(DatasetConfig(source=source, eval_size=0))


def test_an_empty_file_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="has no rows"):
        Dataset(DatasetConfig(source=write(), eval_size=0))


def test_holding_out_every_row_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"eval_size: 256 rows cannot be held out of the 3"):
        Dataset(DatasetConfig(source=write(*numbered(3))))


def test_more_held_out_rows_than_their_file_has_are_refused(write: Write) -> None:
    evaluation = write(*numbered(3), name="eval.jsonl")
    with pytest.raises(ConfigError, match=r"eval_size: 4 rows wanted, but .* has 3"):
        Dataset(DatasetConfig(source="sort", eval_source=evaluation, eval_size=4))
