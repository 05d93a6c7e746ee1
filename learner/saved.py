"""A step as it lies on the disk: its folder is written aside, sealed, and then gets its name, so that it is whole or not there.

step-00000020/  state.json  weights/  optimizer/  critic/  random/     each part a folder of shards
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ..broker.folder import checksum, flush, sync

STATE_FILE = "state.json"
DIGEST = "digest"
REPLACED, DISPLACED = ".replaced.", ".displaced."
"""Before the name of a folder that is being deleted, and of one that stands in until another has its name."""

_NAME = re.compile(r"step-(\d+)")


def folder_of(place: Path, step: int) -> Path:
    """Where a step is kept in that place."""
    return place / f"step-{step:08d}"


def saved_steps(place: Path) -> dict[int, Path]:
    """The folders in that place by their steps, in order."""
    found = {int(match[1]): folder for folder in place.glob("step-*") if (match := _NAME.fullmatch(folder.name))}
    return {step: found[step] for step in sorted(found)}


def read_state(folder: Path) -> dict[str, Any]:
    """What stands in state.json; raises OSError or ValueError."""
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    return state


def is_sound(folder: Path, state: dict[str, Any], part: str) -> bool:
    """Whether a part sums up to what `state` has of it; raises OSError."""
    digests = state.get(DIGEST)
    return isinstance(digests, dict) and part in digests and checksum(folder / part) == digests[part]


def seal(aside: Path, state: dict[str, Any]) -> None:
    """Make a folder of parts durable, and write their sums and the state beside them."""
    parts = sorted(each for each in aside.iterdir() if each.is_dir())
    for part in parts:
        flush(part)
    digests = {part.name: checksum(part) for part in parts}
    (aside / STATE_FILE).write_text(json.dumps(state | {DIGEST: digests}))
    flush(aside)


def give_name(aside: Path, folder: Path) -> None:
    """Let a sealed folder appear under its name, in the place of what may have had it; see `restore`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    replaced = _unnamed(folder, DISPLACED) if folder.exists() else None
    aside.rename(folder)
    for place in {folder.parent, folder.parent.parent, aside.parent}:
        sync(place)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that nobody opens one that is being deleted."""
    shutil.rmtree(_unnamed(folder, REPLACED), ignore_errors=True)


def restore(place: Path) -> None:
    """Give a step its folder back where a crash came between the old one's losing the name and the new one's getting it."""
    for displaced in place.glob(f"{DISPLACED}*"):
        folder = place / displaced.name.removeprefix(DISPLACED)
        if folder.exists():
            shutil.rmtree(displaced, ignore_errors=True)
        else:
            displaced.rename(folder)
            sync(place)


def sweep(place: Path, *patterns: str) -> None:
    """Delete what was left in that place half written, or half deleted."""
    for pattern in (*patterns, f"{REPLACED}*"):
        for left in place.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _unnamed(folder: Path, prefix: str) -> Path:
    aside = folder.with_name(f"{prefix}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)
