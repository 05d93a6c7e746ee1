from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.rewards.answers.exact_match import exact_match


@pytest.mark.parametrize(
    ("completion", "answer", "kwargs", "earned"),
    [
        ("Paris", "paris", {}, 1.0),
        (" The  Eiffel\nTower. ", "the eiffel tower", {}, 1.0),
        ("Eiffel Tower", "the Eiffel Tower", {}, 0.0),
        ("Eiffel Tower", "the Eiffel Tower", {"ignore_articles": True}, 1.0),
        ("theatre", "atre", {"ignore_articles": True}, 0.0),
        ("Paris", "paris", {"ignore_case": False}, 0.0),
        ("Paris!", "Paris", {"ignore_punctuation": False}, 0.0),
        ("-3", "3", {}, 0.0),
        ("3.", "3", {}, 1.0),
        ("35", "3.5", {}, 0.0),
        ("3.5.", "3.5", {}, 1.0),
        ("12", "1/2", {}, 0.0),
        ("C", "C++", {}, 0.0),
        ("C++", "C", {}, 0.0),
        ("c++.", "C++", {}, 1.0),
        ("", "+", {}, 0.0),
        ("*", "+", {}, 0.0),
        ("?", "!", {}, 0.0),
        ("*", "", {}, 0.0),
        ("**Paris**, he said", "Paris - he said!", {}, 1.0),
        ("-3", "3", {"ignore_punctuation": False}, 0.0),
        ("ﬁn", "fin", {}, 1.0),
        ("STRASSE", "straße", {}, 1.0),
        ("b", ["a", "b"], {}, 1.0),
        ("c", ["a", "b"], {}, 0.0),
        ("7", 7, {}, 1.0),
        ("7", ["6", 7], {}, 1.0),
        ("I say <answer>b</answer> ok", "b", {"within": ["<answer>", "</answer>"]}, 1.0),
        ("<answer>a</answer><answer>b</answer>", "b", {"within": ["<answer>", "</answer>"]}, 1.0),
        ("b", "b", {"within": ["<answer>", "</answer>"]}, 0.0),
        ("<answer>b", "b", {"within": ["<answer>", "</answer>"]}, 0.0),
        ("a b", [], {}, 0.0),
        ("", "", {}, 1.0),
        ("ﷺ" * 3_000_000, "x", {}, 0.0),
    ],
)
def test_exact_match(completion: str, answer: Any, kwargs: dict[str, Any], earned: float) -> None:
    assert exact_match(completion, answer, **kwargs) == earned


@given(st.text(max_size=200))
def test_every_text_matches_itself_exactly(text: str) -> None:
    assert exact_match(f" {text}\n", text) == exact_match(text, ["?", text]) == 1.0
