"""`areal reward try`, in real reward processes."""

import json
from pathlib import Path

import pytest

from ..conftest import Areal

CONFIGS = Path(__file__).parents[3] / "configs"
MINE = """
import time

def tail(completion, answer, prompt, scale=1.0): return {"same": scale * float(completion == answer), "long": 0.5 * (len(prompt) > 0)}

def touchy(completion, answer):
    if answer == "2": raise LookupError("two is not for me")
    return 1.0

def chars(completion, finish_reason):
    assert "#" not in completion
    return float(finish_reason == "stop")

def slow(completion): time.sleep(600)

def majority(completions): return [float(completions.count(each) > 1) for each in completions]
"""
ROWS = [{"prompt": f"{n}=", "answer": str(n)} for n in range(1, 5)]


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    (here / "mine.py").write_text(MINE)
    (here / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    (here / "mine.yaml").write_text(
        "model: {path: nowhere/model}\n"
        "dataset: {source: rows.jsonl, eval_size: 1}\n"
        "rewards: {timeout_s: 1, functions: [{name: ./mine.py:tail, kwargs: {scale: 3}}]}\n"
    )


def test_rows_are_scored_with_their_own_answers(areal: Areal) -> None:
    code, out, err = areal("reward", "try", "./mine.py:tail", "--config", "mine.yaml", "--n", "3")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()[:4]
    assert head.split() == ["row", "reward", "time", "parts", "prompt", "answer"]
    assert [line.split()[:2] for line in lines] == [[str(row), "3.5"] for row in range(3)]
    assert all('{"tail.same": 3.0, "tail.long": 0.5}' in line for line in lines)
    assert "3 rows, 0 failed" in out


def test_a_failure_shows_the_traceback_and_the_row(areal: Areal) -> None:
    code, out, _ = areal("reward", "try", "./mine.py:touchy", "--config", "mine.yaml", "--n", "3")
    assert code == 1 and "3 rows, 1 failed" in out
    assert 'raise LookupError("two is not for me")' in out and "LookupError: two is not for me" in out
    assert '"prompt": "2="' in out and '"prompt": "1="' not in out


def test_it_is_ended_at_the_deadline_of_the_configuration(areal: Areal) -> None:
    code, out, _ = areal("reward", "try", "./mine.py:slow", "--config", "mine.yaml", "--n", "1")
    assert code == 1 and "failed once, lastly: timed out after 1 s" in out
    code, out, _ = areal(
        "reward", "try", "./mine.py:slow", "--config", "mine.yaml", "rewards.timeout_s=0.5", "--n", "1"
    )
    assert "timed out after 0.5 s" in out


def test_a_row_and_a_group_of_answers_can_be_given(areal: Areal) -> None:
    row, answers = '{"prompt": "2+2="}', ("--completion", "4", "--completion", "5", "--completion", "4")
    code, out, err = areal("reward", "try", "./mine.py:majority", "--row", row, *answers)
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["1", "0", "1"]


def test_the_model_answers(areal: Areal) -> None:
    """The quickstart's model sorts some digits, and answers with a # whenever it comes to an end."""
    config = str(CONFIGS / "quickstart.yaml")
    code, out, _ = areal("reward", "try", "sort", "--config", config, "--n", "2", "--generate", "--each", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["0", "0", "1", "1"] and out.count("#") >= 2


def test_an_answer_ends_at_a_stop_string(areal: Areal) -> None:
    """With # as such, no answer holds one, where the model's own do."""
    config = str(CONFIGS / "quickstart.yaml")
    arguments = ("--config", config, "--n", "2", "--generate", "--each", "2", "rollout.sampling.stop=['#']")
    code, out, _ = areal("reward", "try", "./mine.py:chars", *arguments)
    assert code == 0 and "1" in [line.split()[1] for line in out.splitlines()[1:5]]


def test_images_are_made(areal: Areal) -> None:
    config = str(CONFIGS / "rlcm_digits_compress.yaml")
    code, out, _ = areal("reward", "try", "jpeg_compressibility", "--config", config, "--n", "2")
    assert code == 0
    assert all(-0.95 < float(line.split()[1]) < -0.55 and "image 32 x 32" in line for line in out.splitlines()[1:3])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("./mine.py:tail",), "name a --config, whose data set has rows, or a --row"),
        (("./mine.py:tial", "--config", "mine.yaml"), "did you mean 'tail'"),
        (("./mine.py:tail", "--row", "[1]"), "--row: an object is wanted"),
        (("./mine.py:tail", "--row", "{"), "--row: '{' is no JSON"),
        (("./mine.py:tail", "--row", "{}", "--kwargs", '{"sclae": 2}'), "cannot be given the argument 'sclae'"),
        (("./mine.py:tail", "--row", "{}", "--generate"), "has the model of a --config answer"),
    ],
)
def test_what_cannot_be_tried_is_said(areal: Areal, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = areal("reward", "try", *arguments)
    assert code == 2 and says in err
