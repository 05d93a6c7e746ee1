import pytest

from areal.broker.errors import ConfigError
from areal.rewards.forms.think_tags import think_tags
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("completion", "begins", "once", "thinks", "answers"),
    [
        ("<think>so</think>7", 1, 1, 1, 1),
        ("\n <think>\nso\n</think>\n\n7\n", 1, 1, 1, 1),
        ("well <think>so</think>7", 0, 1, 1, 1),
        ("<think> </think>7", 1, 1, 0, 1),
        ("<think>so</think>\n", 1, 1, 1, 0),
        ("<think>so</think>7</think>", 1, 0, 1, 1),
        ("<think><think>so</think>7", 1, 0, 1, 1),
        ("</think>7<think>so", 0, 0, 0, 0),
        ("<think>so", 1, 0, 0, 0),
        ("so</think>7", 0, 0, 0, 0),
        ("<THINK>so</THINK>7", 0, 0, 0, 0),
        ("7", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_think_tags(completion: str, begins: int, once: int, thinks: int, answers: int) -> None:
    holds = {"begins": begins, "once": once, "thinks": thinks, "answers": answers}
    assert think_tags(completion) == {part: value / 4 for part, value in holds.items()}
    all_hold = begins and once and thinks and answers
    assert sum(think_tags(completion, partial=False).values()) == (1.0 if all_hold else 0.0)


def test_think_tags_where_the_prompt_has_opened_them() -> None:
    assert sum(think_tags("so</think>7", opened=True).values()) == 1.0
    assert think_tags("<think>so</think>7", opened=True)["once"] == 0.0


def test_tags_of_ones_own_choice() -> None:
    assert sum(think_tags("[a]so[b]7", opening="[a]", closing="[b]").values()) == 1.0
    with pytest.raises(ConfigError, match="cannot be told apart"):
        prepare("think_tags", think_tags, {"opening": "<a>", "closing": "<a>"}).begin()
