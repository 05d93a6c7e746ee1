import time

import pytest

from areal.broker.errors import ConfigError
from areal.rewards.forms.language import SCRIPTS, language_consistency
from areal.rewards.reward import prepare


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("hello", "en", 1.0),
        ("hello 世界", "en", 5 / 7),
        ("hello 世界", "zh", 2 / 7),
        ("hello 世界", "Han", 2 / 7),
        ("これは本です", "ja", 1.0),
        ("안녕 hello", "ko", 2 / 7),
        ("привет, 123!", "ru", 1.0),
        ("مرحبا", "ar", 1.0),
        ("naïve café", "EN", 1.0),
        ("所以 $x + y$ 是 \\frac 二", "zh", 1.0),
        ("看 ```python\nprint(x)\n``` 和 `code`", "zh", 1.0),
        ("see https://example.com/世界 now", "en", 1.0),
        ("123 !?", "en", 0.0),
        ("", "en", 0.0),
    ],
)
def test_language_consistency(text: str, language: str, share: float) -> None:
    assert language_consistency(text, language=language) == pytest.approx(share)


def test_every_language_has_its_script() -> None:
    for language in SCRIPTS:
        assert language_consistency("1", language=language) == 0.0
    with pytest.raises(ConfigError, match=r"kwargs\.language of language_consistency is 'Klingon', neither .* zh"):
        prepare("language_consistency", language_consistency, {"language": "Klingon"}).begin()


@pytest.mark.parametrize("text", ["`a" * 5_000_000, "$" * 9_999_999, "\\" * 10_000_000, "é" * 10_000_000])
def test_language_of_a_long_text_is_no_trouble(text: str) -> None:
    began = time.process_time()
    assert 0.0 <= language_consistency(text, language="en") <= 1.0
    assert time.process_time() - began < 1.0
