"""A configuration as it is written: a YAML file, the one that it is based on, and `a.b=c` overrides.

base: rlcm_digits_compress.yaml      all that stands there, but for what this file says otherwise
rewards: {functions: [{name: …}]}    a list takes the place of the one there
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from ..broker.errors import ConfigError
from .parts import without_renamed

BASE = "base"
MAX_BASES = 8


def load_tree(
    path: Path, overrides: Sequence[str], model: type[BaseModel], *, resolved: bool = False
) -> dict[str, Any]:
    """What is written, resolved but not checked. Raises ConfigError.

    Where the file gives a part of its base another `name`, or an override one of the file, what is of no use to the new
    part is left out: see without_renamed.
    """
    _require_pairs(overrides)
    written = _written(path, model)
    try:
        given = OmegaConf.from_dotlist(list(overrides))
        _require_whole_lists(written, _plain(given), path)
        kept = without_renamed(written, _plain(given), model, resolved=resolved)
        tree = OmegaConf.to_container(OmegaConf.merge(kept, given), resolve=True)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def overridden(
    tree: Mapping[str, Any], overrides: Sequence[str], model: type[BaseModel], source: Path
) -> dict[str, Any]:
    """A resolved tree with overrides, as load_tree does it for a file; nothing in the tree itself is interpolated.

    Raises ConfigError.
    """
    given = _given(overrides)
    _require_whole_lists(tree, given, source)
    return _merged(without_renamed(tree, given, model, resolved=True), given)


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides say, interpolations resolved."""
    _require_pairs(overrides)
    try:
        given: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=True)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    return given


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged


def _require_pairs(overrides: Sequence[str]) -> None:
    wrong = [override for override in overrides if "=" not in override]
    if wrong:
        raise ConfigError(f"override {wrong[0]!r} is not of the form key=value, as in learner.steps=20")


def _written(path: Path, model: type[BaseModel], depth: int = 0) -> dict[str, Any]:
    """The file over its base, interpolations as they stand."""
    own = _read(path)
    base = own.pop(BASE, None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{path}: {BASE} is {base!r:.100}, and another configuration's file is wanted")
    if depth == MAX_BASES:
        raise ConfigError(f"{path}: more than {MAX_BASES} files are based on each other; does one come again?")
    below = without_renamed(_written(path.parent / base, model, depth + 1), own, model)
    _require_whole_lists(below, own, path)
    try:
        merged: dict[str, Any] = _plain(OmegaConf.merge(below, own))
        return merged
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _require_whole_lists(written: Mapping[str, Any], given: Mapping[str, Any], path: Path, prefix: str = "") -> None:
    """Raise ConfigError, naming the key, where keys are given to a list: one takes the place of another whole."""
    for key, change in given.items():
        known, name = written.get(key), f"{prefix}{key}"
        if not isinstance(change, dict):
            continue
        if isinstance(known, list):
            raise ConfigError(
                f"{path}: {name}.{next(iter(change), '')} is an item of a list, and a list is written whole, as in "
                f"'{name}=[…]'"
            )
        if isinstance(known, dict):
            _require_whole_lists(known, change, path, f"{name}.")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"there is no configuration {path}{hint}")
    try:
        tree = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
    plain = _plain(tree)
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: a mapping of keys is wanted, not {type(plain).__name__}")
    return plain


def _plain(tree: Any) -> Any:
    """The tree as it is written, in dictionaries and lists."""
    return OmegaConf.to_container(tree, resolve=False)
