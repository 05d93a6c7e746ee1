"""How much of a text is in the script of a language."""

from functools import lru_cache

import regex

from ...broker.errors import ConfigError
from ..reward import begins_with

SCRIPTS = {
    "ar": ("Arabic",),
    "bn": ("Bengali",),
    "el": ("Greek",),
    "fa": ("Arabic",),
    "he": ("Hebrew",),
    "hi": ("Devanagari",),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ka": ("Georgian",),
    "ko": ("Hangul",),
    "ru": ("Cyrillic",),
    "ta": ("Tamil",),
    "th": ("Thai",),
    "uk": ("Cyrillic",),
    "zh": ("Han",),
} | dict.fromkeys(("cs", "de", "en", "es", "fr", "id", "it", "nl", "pl", "pt", "sv", "tr", "vi"), ("Latin",))

MAX_CHARS = 200_000
"""How much of the beginning of a text is looked at."""

# Code and mathematics are in Latin letters in any language. Each ends at its own sign, or is none.
_ASIDE = regex.compile(r"```[^`]*```|`[^`\n]*`|\$\$[^$]*\$\$|\$[^$\n]*\$|\\[a-zA-Z]+|https?://\S+")
_LETTER = regex.compile(r"\p{L}")


def _begin(language: str) -> None:
    _counted(language)


@begins_with(_begin)
def language_consistency(completion: str, *, language: str) -> float:
    """The share of the completion's letters that are of the script of `language`, from 0 to 1; 0 without any letter.

    `language` is a code (en, de, zh, ja, ko, ru, ar, …) or the name of a Unicode script (Latin, Han, Cyrillic, …). Fenced and
    quoted code, what stands between dollar signs, LaTeX commands and addresses are not looked at, nor is what follows the
    first 200,000 characters. It tells scripts apart and not languages: English is as good as French, and Japanese in Han
    alone is taken for Chinese and the other way round. The reward of DeepSeek-R1 (arXiv 2501.12948, section 2.3.2), which
    counts words, is meant the same way: to keep a chain of thought from mixing languages.
    """
    text = _ASIDE.sub(" ", completion[:MAX_CHARS])
    letters = sum(1 for _ in _LETTER.finditer(text))
    return sum(1 for _ in _counted(language).finditer(text)) / letters if letters else 0.0


@lru_cache(maxsize=64)
def _counted(language: str) -> "regex.Pattern[str]":
    """A letter of that language's script."""
    scripts = SCRIPTS.get(language.lower(), (language,))
    try:
        of_script = "".join(rf"\p{{Script={script}}}" for script in scripts)
        return regex.compile(rf"(?V1)[\p{{L}}&&[{of_script}]]")
    except regex.error as error:
        raise ConfigError(
            f"kwargs.language of language_consistency is {language!r}, neither the name of a Unicode script nor one of "
            f"{', '.join(sorted(SCRIPTS))}"
        ) from error
