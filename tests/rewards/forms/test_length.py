from pathlib import Path
from typing import Any

import pytest

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.forms.length import cosine_length, overlong
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_overlong_is_dapos_soft_punishment(num_tokens: int, penalty: float) -> None:
    assert overlong(num_tokens, 100, buffer=20) == pytest.approx(penalty)
    assert overlong(num_tokens, 999, buffer=20, max_length=100, factor=2.0) == pytest.approx(2 * penalty)


@pytest.mark.parametrize("buffer", [0, 101])
def test_overlong_with_a_buffer_that_does_not_fit(buffer: int) -> None:
    with pytest.raises(
        RewardError, match=rf"buffer of overlong is {buffer}, not from 1 to the longest completion, 100"
    ):
        overlong(5, 100, buffer=buffer)


COSINE = {"of": "gsm8k", "right": (2.0, 1.0), "wrong": (-10.0, 0.0), "exceeded": -12.0}


@pytest.mark.parametrize(
    ("num_tokens", "right", "wrong"),
    [
        (0, 2.0, -10.0),
        (25, 1.853553, -8.535534),  # 1 + ½(1 + √½), −5(1 + √½)
        (50, 1.5, -5.0),
        (75, 1.146447, -1.464466),
        (100, -12.0, -12.0),
        (101, -12.0, -12.0),
    ],
)
def test_cosine_length(num_tokens: int, right: float, wrong: float) -> None:
    reward = prepare("cosine_length", cosine_length, COSINE)
    reward.begin()
    row = {"answer": "#### 18", "question": "?", "num_tokens": num_tokens, "max_tokens": 100, "finish_reason": "stop"}
    assert reward("p", "It is 18.", row) == pytest.approx(right, abs=1e-6)
    assert reward("p", "It is 19.", row) == pytest.approx(wrong, abs=1e-6)


def test_cosine_length_of_a_function_of_parts_with_arguments() -> None:
    kwargs = {
        "of": "json_schema",
        "of_kwargs": {"schema": {"type": "array"}, "parses": 0.5},
        "right": [4, 4],
        "wrong": [3, 3],
    }
    reward = prepare("cosine_length", cosine_length, kwargs)
    row = {"num_tokens": 5, "max_tokens": 10}
    assert [reward("p", completion, row) for completion in ("[]", "{}")] == [4.0, 3.0]
    easier = prepare("cosine_length", cosine_length, {**kwargs, "right_at": 0.5})
    assert [easier("p", completion, row) for completion in ("{}", "x")] == [4.0, 3.0]


@pytest.mark.parametrize(
    ("of", "of_kwargs", "message"),
    [
        ("gsm9k", {}, "did you mean 'gsm8k'"),
        ("gsm8k", {"tolerance": 1}, "cannot be given the argument 'tolerance'"),
        ("jpeg_compressibility", {}, "rewards images or is an `async def`"),
        ("{folder}/later.py:later", {}, "rewards images or is an `async def`"),
        ("regex", {"pattern": "("}, "is no pattern"),
    ],
)
def test_what_cosine_length_cannot_be_of(of: str, of_kwargs: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("async def later(completion): return 1.0\n")
    kwargs = {"of": of.format(folder=tmp_path), "of_kwargs": of_kwargs}
    with pytest.raises(ConfigError, match=message):
        prepare("cosine_length", cosine_length, kwargs).begin()
