"""Turns a name in a configuration into the Python object that it names.

    sort                      a bundled reward
    their-reward              an entry point of group areal.rewards, from an installed package
    ./file.py:name            an object in a file, relative to the working directory
    package.module:name       an object in an importable module

The folder of such a file, and the working directory for a module, are appended to the end of sys.path: a user's
`random.py` or `rewards/` may be imported by the user's own file, but shadows nobody else's.
"""

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..broker.errors import ConfigError

ENTRY_POINT_GROUP = "areal.rewards"
BUNDLED = {
    "sort": f"{__package__}.answers.after_hash:after_hash",
    "count": f"{__package__}.answers.after_hash:after_hash",
    "arithmetic": f"{__package__}.answers.arithmetic:arithmetic",
    "math": f"{__package__}.answers.math_answer:math",
    "gsm8k": f"{__package__}.answers.gsm8k:gsm8k",
    "numeric": f"{__package__}.answers.numeric:numeric",
    "countdown": f"{__package__}.answers.countdown:countdown",
    "exact_match": f"{__package__}.answers.exact_match:exact_match",
    "regex": f"{__package__}.forms.pattern:regex",
    "think_tags": f"{__package__}.forms.think_tags:think_tags",
    "boxed_format": f"{__package__}.forms.boxed_format:boxed_format",
    "json_schema": f"{__package__}.forms.json_schema:json_schema",
    "tool_call": f"{__package__}.forms.tool_call:tool_call",
    "overlong": f"{__package__}.forms.length:overlong",
    "cosine_length": f"{__package__}.forms.length:cosine_length",
    "repetition_penalty": f"{__package__}.forms.repetition:repetition_penalty",
    "language_consistency": f"{__package__}.forms.language:language_consistency",
    "self_consistency": f"{__package__}.groups.consensus:self_consistency",
    "best_of_n": f"{__package__}.groups.best_of_n:best_of_n",
    "code": f"{__package__}.programs.code:code",
    "jpeg_compressibility": f"{__package__}.images.jpeg:jpeg_compressibility",
    "jpeg_incompressibility": f"{__package__}.images.jpeg:jpeg_incompressibility",
    "classifier": f"{__package__}.images.classifier:classifier",
    "clip_score": f"{__package__}.images.clip_score:clip_score",
    "aesthetic": f"{__package__}.images.aesthetic:aesthetic",
    "alignment": f"{__package__}.images.alignment:alignment",
    "judge": f"{__package__}.models.judge:judge",
    "verifier": f"{__package__}.models.judge:verifier",
    "reward_model": f"{__package__}.models.reward_model:reward_model",
    "reasoning_gym": f"{__package__}.answers.reasoning_gym:reasoning_gym",
}


def load_object(spec: str) -> Any:
    """The object that `./file.py:name` or `package.module:name` names; whatever the file raises passes through."""
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        raise ConfigError(f"{spec!r} is neither ./file.py:name nor package.module:name")
    module = _load_file(spec, Path(place)) if place.endswith(".py") else _load_module(spec, place)
    if not hasattr(module, name):
        available = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{spec!r}: {place} has no {name!r}{_available(name, available)}")
    return getattr(module, name)


def load_reward(name: str) -> Callable[..., Any]:
    """The reward function of that name: a bundled one, an entry point, or one in a file or module."""
    if name in BUNDLED:
        function = load_object(BUNDLED[name])
    elif ":" in name:
        function = load_object(name)
    else:
        function = _load_entry_point(name)
    if not callable(function):
        raise ConfigError(f"reward {name!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def is_entry_point(name: str) -> bool:
    """Whether an installed package brings a reward of that name."""
    return name in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP).names


def _load_entry_point(name: str) -> Any:
    installed = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for entry_point in installed:
        if entry_point.name == name:
            return entry_point.load()
    available = _available(name, [*BUNDLED, *installed.names])
    raise ConfigError(f"there is no reward {name!r}{available}, or name your own as ./file.py:function")


def _load_file(spec: str, path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")]
        raise ConfigError(f"{spec!r}: there is no file {path}{_available(path.name, siblings)}")
    # A name that no import statement can say: two files of one name, or one called like a library, stay apart.
    private_name = f"_areal_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}.{path.stem}"
    if private_name in sys.modules:
        return sys.modules[private_name]
    module_spec = importlib.util.spec_from_file_location(private_name, path)
    assert module_spec is not None and module_spec.loader is not None, path
    _append_to_path(path.parent)
    module = sys.modules[private_name] = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private_name]
        raise
    return module


def _load_module(spec: str, name: str) -> ModuleType:
    _append_to_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists but lacks one of its own imports is the user's error, and says so itself.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{spec!r}: there is no module {error.name!r} here; a file is named ./file.py:name"
        ) from error


def _append_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _available(wanted: str, names: Iterable[str]) -> str:
    """The tail of a message: the nearest of `names`, then all of them."""
    known = sorted(set(names))
    nearest = difflib.get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"{hint} available: {', '.join(known) or 'nothing'}"
