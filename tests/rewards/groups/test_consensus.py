import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.broker.errors import ConfigError
from areal.rewards.groups.consensus import self_consistency
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("answer", "completions", "earned"),
    [
        ("number", ["so 7.", "it is 7.0", "8", "I pass"], [1, 1, 0, 0]),
        ("number", ["1,000", "1000", "1e3"], [1, 1, 0]),
        ("boxed", [r"\boxed{\frac{1}{2}} or", r"\boxed{3} no: \boxed{\frac{1}{2}}", r"\boxed{3", "3"], [1, 1, 0, 0]),
        ("last_line", ["a\n b \n\n", "b", "a"], [1, 1, 0]),
        ("hash", ["1#2", "2#2", "2"], [1, 1, 0]),
        ("text", [" yes", "yes ", "no", ""], [1, 1, 0, 0]),
        ("number", ["1", "2", "1", "2", "3"], [1, 1, 1, 1, 0]),
        ("number", ["none", "", "nothing"], [0, 0, 0]),
    ],
)
def test_the_majority_is_paid(answer: str, completions: list[str], earned: list[int]) -> None:
    assert self_consistency(completions, answer) == earned


def test_a_majority_can_be_asked_for_or_paid_by_its_share() -> None:
    completions = ["1", "1", "2", "x"]
    assert self_consistency(completions, least_share=0.5) == [1, 1, 0, 0]
    assert self_consistency(completions, least_share=0.51) == [0, 0, 0, 0]
    assert self_consistency(completions, graded=True) == [0.5, 0.5, 0.25, 0.0]


def test_what_counts_as_the_answer_is_checked_as_the_run_starts() -> None:
    with pytest.raises(ConfigError, match="answer is 'nubmer'"):
        prepare("self_consistency", self_consistency, {"answer": "nubmer"}).begin()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_nobody_outside_the_largest_camp_is_paid(said: list[int]) -> None:
    earned = self_consistency([f"the answer is {each}" for each in said])
    largest = max(said.count(each) for each in said)
    assert earned == [float(said.count(each) == largest) for each in said]
