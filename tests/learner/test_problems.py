from random import Random

import pytest

from areal.learner.problems import PROBLEMS

RIGHT = {"lazy_fraction": 0.0, "wrong_fraction": 0.0}
SMALL_MODELS = ("sort", "count")


@pytest.mark.parametrize("name", PROBLEMS)
def test_rows_follow_from_the_random_state(name: str) -> None:
    first, second = (PROBLEMS[name].row(Random("state")) for _ in range(2))
    assert first == second
    assert {"prompt", "answer"} <= set(first)


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "completion"),
    [
        ("sort", "7391", "1379", "7;37;379;1379#1379"),
        ("count", "03kq", "nt", "02lr01ms00nt#nt"),
        ("count", "02yz", "ab", "01za00ab#ab"),
    ],
)
def test_a_demonstration_works_the_answer_out(name: str, prompt: str, answer: str, completion: str) -> None:
    row = {"prompt": prompt, "answer": answer}
    assert PROBLEMS[name].demonstration(row, Random(0), **RIGHT) == completion


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_the_trace_ends_in_the_answer(name: str) -> None:
    problem, rng = PROBLEMS[name], Random(1)
    for _ in range(100):
        row = problem.row(rng)
        trace, mark, answer = problem.demonstration(row, rng, **RIGHT).partition("#")
        assert mark == "#" and answer == row["answer"]
        assert trace.endswith(answer)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_lazy_demonstrations_skip_the_trace_and_are_mostly_wrong(name: str) -> None:
    problem, rng = PROBLEMS[name], Random(2)
    rows = [problem.row(rng) for _ in range(1000)]
    texts = [problem.demonstration(row, rng, lazy_fraction=0.6, wrong_fraction=0.8) for row in rows]
    lazy = [(row, text) for row, text in zip(rows, texts, strict=True) if text.startswith("#")]
    right = [row for row, text in lazy if text == "#" + row["answer"]]
    assert 550 < len(lazy) < 650
    assert 0.15 < len(right) / len(lazy) < 0.25


def test_answers_to_count_are_skewed_in_length_and_bounded() -> None:
    problem, rng = PROBLEMS["count"], Random(3)
    lengths = sorted(len(problem.demonstration(problem.row(rng), rng, **RIGHT)) + 1 for _ in range(4000))
    assert 20 <= lengths[2000] <= 32
    assert 200 <= lengths[3960] <= 300
    assert lengths[-1] + len("c99kq=") < 512


def test_arithmetic_is_answered_by_the_number() -> None:
    problem, rng = PROBLEMS["arithmetic"], Random(4)
    for _ in range(100):
        row = problem.row(rng)
        _, _, left, sign, right, *_ = row["prompt"].replace("?", " ").split()
        assert int(row["answer"]) == (int(left) + int(right) if sign == "+" else int(left) * int(right))


def test_a_problem_without_a_trace_has_no_demonstrations() -> None:
    problem = PROBLEMS["arithmetic"]
    with pytest.raises(ValueError, match="no demonstrations"):
        problem.demonstration(problem.row(Random(0)), Random(0), **RIGHT)
