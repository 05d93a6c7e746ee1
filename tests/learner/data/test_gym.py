"""Rows of reasoning_gym, of every task that it has."""

import json
import random
from typing import Any

import numpy as np
import pytest

from areal.broker.codec import decode_prompt, encode_prompt
from areal.broker.errors import ConfigError
from areal.broker.trajectory import Prompt
from areal.learner.config import DatasetConfig
from areal.learner.dataset import Dataset

pytest.importorskip("reasoning_gym")

from areal.learner.data.gym import CHUNK, GymMaker, tasks_of
from areal.rewards.answers.reasoning_gym import read, reasoning_gym

NO_ANSWER = {
    "boxnet": None,  # any plan that lifts all boxes is right, and none is given
    "graph_color": lambda metadata: json.dumps(metadata["possible_answer"]),
    "propositional_logic": lambda metadata: metadata["example_answer"],
    "rubiks_cube": lambda metadata: metadata["example_correct_answer"],
    "rush_hour": None,  # any moves that free the car are right, and none are given
}
"""Tasks of many right answers, whose `answer` is None: where there is one in the metadata, it is scored instead."""
FEW_ANSWERS = {
    "game_of_life_halting",
    "puzzle24",  # every answer makes 24, of whatever numbers: its scorer does not ask of which
}
"""Tasks in which the answers to other rows are as good."""
ALWAYS_RIGHT = {"game_of_life_halting"}  # its scorer compares bool(answer) with bool("True" or "False"): always True


def score(row: dict[str, Any], answer: str) -> float:
    return reasoning_gym(f"I think <answer>{answer}</answer>", row["answer"], row["task"], row["metadata"])


def wrongs_of(task: str) -> list[str]:
    """What is not as it should be with a task."""
    maker = GymMaker(task, {}, "kwargs")
    rows = [next(maker.train_rows(3, position, None)) for position in range(4)]
    while task not in NO_ANSWER and len({row["answer"] for row in rows}) == 1 and len(rows) < 40:  # yes or no, say
        rows.append(next(maker.train_rows(3, len(rows), None)))
    own = [row["answer"] for row in rows]
    if task in NO_ANSWER:
        example = NO_ANSWER[task]
        own = [example(read(row["metadata"])) for row in rows] if example else []
    wrongs = []
    if rows[2] != next(GymMaker(task, {}, "kwargs").train_rows(3, 2, None)):
        wrongs.append("it is not the same again")
    if decode_prompt(encode_prompt(Prompt(0, 0, 1, rows[0]))).row != rows[0]:
        wrongs.append("it does not travel")
    if any(score(row, answer) != 1.0 for row, answer in zip(rows, own, strict=False)):
        wrongs.append("its own answer is not right")
    if (min(score(row, "zzz garbage") for row in rows) == 1.0) != (task in ALWAYS_RIGHT):
        wrongs.append("garbage is as good")
    others = [score(row, other) for row, other in zip(rows, own[1:] + own[:1], strict=False)]
    if own and (min(others) == 1.0) != (task in FEW_ANSWERS):
        wrongs.append("the answers to other rows are as good")
    return wrongs


# some tasks leave files open that they read words from
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_task_is_made_again_travels_and_is_scored() -> None:
    tasks = tasks_of("all", {}, "dataset.source")
    assert len(tasks) > 100
    wrongs = {task: found for task in tasks if (found := wrongs_of(task))}
    assert wrongs == {}


def dataset(source: str, **options: Any) -> Dataset:
    return Dataset(DatasetConfig.model_validate({"source": f"reasoning_gym:{source}", "eval_size": 20, **options}))


def test_rows_are_found_by_position_and_never_held_out() -> None:
    made, again = dataset("gcd", seed=7), dataset("gcd", seed=7)
    positions = [0, 3, CHUNK - 1, CHUNK, 10**9 + 7]
    rows = [made.train_row(position) for position in positions]
    assert [again.train_row(position) for position in reversed(positions)] == rows[::-1]
    held_out = {row["prompt"] for row in made.eval_rows()}
    assert len(held_out) == 20
    assert not held_out & {made.train_row(position)["prompt"] for position in range(3 * CHUNK)}
    other = dataset("gcd", seed=8)
    assert other.eval_rows() == made.eval_rows()
    assert not {other.train_row(p)["prompt"] for p in range(50)} & {made.train_row(p)["prompt"] for p in range(50)}
    assert made.num_rows is None


def test_rows_have_what_the_reward_reads() -> None:
    row = dataset("chain_sum", kwargs={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}).train_row(0)
    assert set(row) == {"prompt", "answer", "task", "metadata"} and row["task"] == "chain_sum"
    assert read(row["metadata"])["difficulty"]["num_terms"] == (2, 2)
    assert len(row["answer"]) <= 2


def test_several_tasks_come_in_turn() -> None:
    made = dataset("gcd, lcm")
    rows = [made.train_row(position) for position in range(6)]
    assert [row["task"] for row in rows] == ["gcd", "lcm"] * 3
    assert rows[1]["source"] == "reasoning_gym:lcm"
    assert [row["task"] for row in made.eval_rows()] == ["gcd"] * 10 + ["lcm"] * 10


def test_tasks_grow_harder_by_their_own_curriculum() -> None:
    made = dataset("chain_sum", curriculum={"start": 0, "end": 2, "positions": 40, "steps": 2})
    rows = [made.train_row(position) for position in range(120)]
    assert [{row["difficulty"] for row in rows[begin:end]} for begin, end in ((0, 20), (20, 40), (40, 120))] == [
        {0},
        {0, 1},
        {0, 1, 2},
    ]
    terms = {
        level: read(row["metadata"])["difficulty"]["num_terms"] for row in rows if (level := row["difficulty"]) < 3
    }
    assert terms[0][1] < terms[1][1] < terms[2][1]
    fixed = dataset("chain_sum", kwargs={"level": 2}).train_row(0)
    assert read(fixed["metadata"])["difficulty"]["num_terms"] == terms[2]


def test_the_random_numbers_of_the_process_are_left_alone() -> None:
    made = dataset("pool_matrix", eval_size=0)  # which seeds NumPy's
    random.seed(1), np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1), np.random.seed(1)
    made.train_row(3)
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "chain_sums",
            {},
            r"dataset\.source: reasoning_gym has no task 'chain_sums' \(did you mean chain_sum\?\); known",
        ),
        ("gcd,lcm", {"kwargs": {"seed": 1}}, r"dataset\.kwargs: each of several tasks has options of its own"),
        ("gcd", {"kwargs": {"min_number": 1}}, r"has no option 'min_number' \(did you mean min_numbers\?\)"),
        ("gcd", {"kwargs": {"seed": 1}}, r"has no option 'seed'"),
        ("gcd", {"kwargs": {"min_numbers": 0}}, r"dataset\.kwargs: reasoning_gym:gcd cannot be made with"),
        ("gcd", {"kwargs": {"level": 99}}, r"dataset\.kwargs\.level: 99; reasoning_gym:gcd has levels from 0 to \d"),
        ("acre", {"kwargs": {"level": 0}}, r"dataset\.kwargs\.level: reasoning_gym:acre has no levels"),
        (
            "gcd",
            {"kwargs": {"level": 0}, "curriculum": {"start": 0, "end": 1, "positions": 5}},
            r"dataset\.kwargs\.level is what the curriculum sets",
        ),
    ],
)
def test_what_there_is_not_is_named(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset(source, **options)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(
        ConfigError, match=r"reasoning-gym cannot be imported .*pip install 'areal-rl\[reasoning_gym\]'"
    ):
        dataset("gcd")
