"""Where files lie that were shipped to a node for a run: paths differ there, and what names them is named anew.

launch/cluster/shipping.py ships them. The actor of a role finds its copy, and tells the role's process by variables; from these the
actors of rewards that it starts on yet other nodes have theirs.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..broker.errors import ConfigError

FOLDER = "areal_shipped"
"""The folder that is shipped; Ray appends the one above it to a worker's sys.path, and nothing else lies in that."""
FOLDER_VARIABLE, RUNTIME_VARIABLE = "AREAL_SHIPPED", "AREAL_RUNTIME_ENV"
"""Where this node has it, and the environment by which Ray brings it to others, as JSON."""
PASSED_VARIABLE = "AREAL_PASSED"
"""The names of the variables that were configured for the role."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a role has been given that its actors elsewhere need too: where its files lie, where it stands, and variables."""

    folder: str | None = None
    stands_in: str = "."
    variables: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def here(cls) -> "Given":
        """Of the role that this process is."""
        names = os.environ.get(PASSED_VARIABLE, "").split(",")
        variables = {name: os.environ[name] for name in names if name in os.environ}
        return cls(os.environ.get(FOLDER_VARIABLE), os.getcwd(), variables)

    def take(self, value: Any) -> Any:
        """Have the same in this process, on whatever node; returns the JSON value with paths as they are there."""
        os.environ.update(self.variables)
        if self.folder is None:
            return value
        moved = {self.folder: str(find_shipped())}
        if Path(self.stands_in).is_relative_to(self.folder):
            os.chdir(renamed(self.stands_in, moved))
        return renamed(value, moved)


def runtime_env() -> dict[str, Any] | None:
    """By which Ray brings what was shipped to another node; None if nothing was."""
    found: dict[str, Any] | None = json.loads(os.environ.get(RUNTIME_VARIABLE, "null"))
    return found


def find_shipped() -> Path:
    """What was shipped, on this node. Raises ConfigError where Ray has brought nothing."""
    for entry in sys.path:
        if (Path(entry) / FOLDER).is_dir():
            return Path(entry) / FOLDER
    raise ConfigError("the files that were shipped are not on this node: see that Ray's runtime_env works there")


def renamed(value: Any, moved: Mapping[str, str]) -> Any:
    """A JSON value in which every string that names a moved path, or what lies below one, names it where it is now.

    The path may stand behind a scheme (hf:/rows) and before an object's name (/file.py:reward).
    """
    if isinstance(value, dict):
        return {key: renamed(each, moved) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(each, moved) for each in value]
    if not isinstance(value, str) or (found := re.fullmatch(r"((?:[a-z]+:)?)(/.*)", value, re.DOTALL)) is None:
        return value
    scheme, path = found.groups()
    for here in sorted(moved, key=len, reverse=True):
        if path == here or path.startswith((f"{here}/", f"{here}:")):
            return f"{scheme}{moved[here]}{path[len(here) :]}"
    return value
