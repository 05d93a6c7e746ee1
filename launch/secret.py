"""Names of what is not to be written down, and the keys of a configuration that hold such a thing all the same."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

SECRET = re.compile(
    r"passw|secret|token(?!s|i[sz])|credential|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key", re.IGNORECASE
)
"""Variables, keys and files of such names hold what is not to be written down."""
HARMLESS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|<[^<>]*>|\s*")
"""Texts that may stand under such a name: that of a variable (HF_TOKEN), a token of a model (<|end|>), nothing."""

TOKEN, KEY_LIKE = "token", re.compile(r"\S{16,}")
"""A word that means texts of models as often as keys; of such a name a text is secret only if it looks like a key."""


def secret_keys(value: Any, key: str, *, named: str = "") -> Iterator[str]:
    """The keys in a free-form part of a configuration whose text is secret by their name, or by that of what they are in.

    key: of the part itself.
    named: the word in the name of what it is in that says so, if one does.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            found = SECRET.search(str(name))
            yield from secret_keys(each, f"{key}.{name}", named=found[0].lower() if found else named)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from secret_keys(each, f"{key}.{index}", named=named)
    elif named and isinstance(value, str | bytes) and _may_be_secret(named, str(value)):
        yield key


def is_secret_file(name: str) -> bool:
    """Whether a file or a folder of that name is taken to hold a secret; a module may be about tokens."""
    found = SECRET.search(name)
    return found is not None and not (found[0].lower() == TOKEN and name.endswith(".py"))


def _may_be_secret(named: str, text: str) -> bool:
    if HARMLESS.fullmatch(text):
        return False
    return named != TOKEN or KEY_LIKE.fullmatch(text) is not None
