import pytest

from areal.rewards.answers.final_answer import concluded, last_between, last_box


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxed {1}", "1"),
        (r"\fbox{1}", "1"),
        (r"\boxed{}", ""),
        (r"\boxed{1} then \boxed{2", None),
        (r"\boxed 1", None),
        ("1", None),
        (r"\boxed{" + "1" * 100_001 + "}", None),
    ],
    ids=range(12),
)
def test_last_box(text: str, held: str | None) -> None:
    assert last_box(text) == held


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The answer is 7. I am sure.", "7"),
        ("the answer to this question is: **1.5**", "1.5**"),
        ("Answer: 7\nDone", "7"),
        ("Final answer = $7$", "$7$"),
        ("Answer:\n\n7", "7"),
        ("The answer is 6. No, the answer is 7", "7"),
        ("This answers nothing", None),
        ("answer 7", None),
        ("", None),
        ("The answer is 7" + " " * 5_000, None),
    ],
)
def test_concluded(text: str, said: str | None) -> None:
    found = concluded(text)
    assert (found if found is None else found.strip()) == said


def test_last_between() -> None:
    assert last_between("<a>1</a> <a>2</a> <a>3", "<a>", "</a>") == "2"
    assert last_between("</a> <a>", "<a>", "</a>") is None
    assert last_between("<a>1", "<a>", "</a>") is last_between("1</a>", "<a>", "</a>") is None
