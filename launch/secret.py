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


def secret_keys(value: Any, key: str, *, named: bool = False) -> Iterator[str]:
    """The keys in a free-form part of a configuration whose text is secret by their name, or by that of what they are in.

    key: of the part itself.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from secret_keys(each, f"{key}.{name}", named=named or SECRET.search(str(name)) is not None)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from secret_keys(each, f"{key}.{index}", named=named)
    elif named and isinstance(value, str | bytes) and not HARMLESS.fullmatch(str(value)):
        yield key
