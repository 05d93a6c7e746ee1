import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.broker.errors import RewardError
from areal.rewards.answers.gsm8k import final_number, gsm8k, reference

DATA = Path(os.environ.get("AREAL_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data")) / "gsm8k"
TEMPLATES = (
    "So she has 2 + 3 of them left.\n#### {}",
    "The answer is {}.",
    "First 7, then 8.\n\n**Answer: {}**",
    r"Of the 12 there remain $\boxed{{{}}}$, as 5 are gone.",
    r"\boxed{{{}\text{{ dollars}}}}",
    "3 * 4 - 1 makes ${}",
    "He pays for 2 meals, so **{}** dollars",
    "The final answer is: ${}.00 for all.",
    "answer = {} apples, I am sure.\nI used 99 words.",
)


def rows(split: str) -> list[dict[str, Any]]:
    file = DATA / f"{split}.jsonl"
    if not file.is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(f"GSM8K is not at {file}; AREAL_DATA says where data lies")
        pytest.skip(f"GSM8K is not at {file}; AREAL_DATA says where data lies")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("completion", "earned"),
    [
        ("#### 18", 1.0),
        ("#### 17\n#### 18", 1.0),
        ("#### 18\n#### 17", 0.0),
        ("#### $18 for 2 eggs", 1.0),
        ("18 it is\n####", 0.0),
        ("#### 3 * 6 = 18", 1.0),
        ("#### 18\n3 * 5 = 15", 1.0),
        ("####\n18", 1.0),
        ("#### **18** eggs in 2 days", 1.0),
        ("#### 18 = 3 * 6", 0.0),
        ("#### 18/2", 0.0),
        ("#### 18 or 20", 0.0),
        ("#### 20 or 18", 0.0),
        ("#### $18 - $20", 0.0),
        ("#### 18 dollars and 50 cents", 0.0),
        (r"#### 18 \times 2", 0.0),
        ("The answer is 18 or 20.", 0.0),
        ("The answer is 20 or 18.", 0.0),
        (r"\boxed{18}, I checked it 3 times", 1.0),
        (r"\boxed{17} no, \boxed{18}", 1.0),
        (r"\boxed{18} no, \boxed{17}", 0.0),
        (r"\boxed{x = 18}", 1.0),
        (r"\boxed{\$18}", 1.0),
        (r"so 18 is \boxed{eighteen}", 0.0),
        (r"18 \boxed{17", 0.0),
        ("The answer is 18.", 1.0),
        ("The answer is 18. That took 3 steps.", 1.0),
        ("The answer is 9 * 2 = 18 dollars.", 1.0),
        ("The answer is clear: look above.\nIt was 18", 1.0),
        ("The answer is 17.\nNo, the answer is 18.", 1.0),
        ("**18**", 1.0),
        ("$18", 1.0),
        ("18 dollars", 1.0),
        ("18.00", 1.0),
        ("18.", 1.0),
        ("18.01", 0.0),
        ("-18", 0.0),
        ("180", 0.0),
        ("1/18", 1.0),
        ("eighteen", 0.0),
        ("١٨", 0.0),
        ("nan", 0.0),
        ("", 0.0),
    ],
)
def test_of_18(completion: str, earned: float) -> None:
    assert gsm8k(completion, "18") == gsm8k(completion, 18) == earned
    assert gsm8k(completion, "9 * 2 = <<9*2=18>>18 in 1 day.\n#### 18") == earned


@pytest.mark.parametrize(
    "completion", ["1,800", "1800", "$1,800.00", r"\boxed{1{,}800}", r"\boxed{1,\!800}", "#### 1,800"]
)
def test_thousands(completion: str) -> None:
    assert gsm8k(completion, "1,800") == gsm8k(completion, "1800") == 1.0
    assert gsm8k(completion, "800") == 0.0


@pytest.mark.parametrize("answer", ["none", "#### none", ""])
def test_an_answer_without_a_number_is_an_error(answer: str) -> None:
    with pytest.raises(RewardError, match=f"the answer {answer!r} of a row holds no number"):
        gsm8k("18", answer)


@given(st.integers(), st.sampled_from(TEMPLATES), st.sampled_from(["{}", "{:,}"]))
def test_any_integer_in_any_phrase(answer: int, template: str, written: str) -> None:
    completion = template.format(written.format(answer))
    assert gsm8k(completion, answer) == gsm8k(completion, f"by 3 steps\n#### {answer:,}") == 1.0
    assert gsm8k(completion, answer + 1) == 0.0


@pytest.mark.parametrize("text", ["1" * 10_000_000, "answer is " * 1_000_000, "\\boxed{" * 1_000_000, "#" * 10_000_000])
def test_a_long_text_is_no_trouble(text: str) -> None:
    assert gsm8k(text, 18) == 0.0


def test_every_test_answer_in_every_phrase() -> None:
    answers = [row["answer"] for row in rows("test")]
    assert len(answers) == 1319
    for answer in answers:
        number = answer.rpartition("#### ")[2]
        other = str(int(number.replace(",", "")) + 1)
        for template in TEMPLATES:
            assert gsm8k(template.format(number), answer) == 1.0, (template, number)
            assert gsm8k(template.format(number.replace(",", "")), answer) == 1.0, (template, number)
            assert gsm8k(template.format(other), answer) == 0.0, (template, number)


def test_every_reference_solution_is_read() -> None:
    solutions = [row["answer"] for split in ("train", "test") for row in rows(split)]
    assert len(solutions) == 7473 + 1319
    for solution in solutions:
        tail = re.fullmatch(r"#### (-?[0-9,]+)", solution.splitlines()[-1])
        assert tail is not None
        assert reference(solution) == final_number(solution) == Decimal(int(tail[1].replace(",", "")))
        assert gsm8k(solution, solution) == 1.0
