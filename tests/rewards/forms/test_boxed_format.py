import pytest

from areal.rewards.forms.boxed_format import boxed_format


@pytest.mark.parametrize(
    ("completion", "earned"),
    [
        (r"so \boxed{18}", 1.0),
        ("so $\\boxed{\\frac{1}{2}}$.\n", 1.0),
        (r"so \[ \boxed{\{1, 2\}} \]", 1.0),
        (r"so **\(\boxed{18}\)**", 1.0),
        (r"so \fbox {18}", 1.0),
        (r"so \boxed{18} dollars", 0.0),
        (r"\boxed{1} or \boxed{2}", 0.0),
        (r"\boxed{\boxed{2}}", 0.0),
        (r"\boxed{ }", 0.0),
        (r"\boxed{18", 0.0),
        (r"\boxed 18", 0.0),
        ("18", 0.0),
        ("", 0.0),
        (r"\boxed{" * 1_000_000, 0.0),
        (r"\boxed{1}" + "{" * 1_000_000, 0.0),
        (r"\boxed{1}" + "." * 1_000_000, 1.0),
    ],
    ids=range(16),
)
def test_boxed_format(completion: str, earned: float) -> None:
    assert boxed_format(completion) == earned
