import time
from typing import Any

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.forms.pattern import regex
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("completion", "kwargs", "earned"),
    [
        ("ab12", {"pattern": r"[a-z]+\d+"}, 1.0),
        ("ab12!", {"pattern": r"[a-z]+\d+"}, 0.0),
        ("ab12!", {"pattern": r"[a-z]+\d+", "where": "anywhere"}, 1.0),
        ("AB", {"pattern": "ab"}, 0.0),
        ("AB", {"pattern": "ab", "ignore_case": True}, 1.0),
        ("a\nb", {"pattern": "a.b"}, 1.0),
        ("abab", {"pattern": r"(?=a)(ab)\1"}, 1.0),
        ("", {"pattern": ""}, 1.0),
    ],
)
def test_regex(completion: str, kwargs: dict[str, Any], earned: float) -> None:
    assert regex(completion, **kwargs) == earned


@pytest.mark.parametrize("pattern", ["(a|aa)+b+", "(.*)*b", "(a|b|ab|aa)*"])
def test_a_catastrophic_pattern_is_a_failure_and_no_score(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(RewardError, match=r"took longer than 0\.2 s \(kwargs.limit_s\) on a completion of 100001 char"):
        regex("a" * 50_000 + "b" * 50_000 + "!", pattern=pattern, limit_s=0.2)
    assert time.process_time() - began < 2.0


def test_a_pattern_that_is_none_is_told_as_the_run_starts() -> None:
    with pytest.raises(ConfigError, match=r"kwargs\.pattern '\(' of the reward regex is no pattern: missing \)"):
        prepare("regex", regex, {"pattern": "("}).begin()
    with pytest.raises(ConfigError, match=r"wants 'pattern'"):
        prepare("regex", regex, {}).begin()
