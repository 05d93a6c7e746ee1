"""A step as it lies on the disk: its folder is written aside, sealed, and then gets its name, so that it is whole or not there.

step-00000020/  weights/  optimizer/  critic/  random/     each part a folder of shards
                state.json                                 what there is beside tensors
                digests.json                               what each of these sums up to
"""

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..broker.folder import checksum, flush, sync

STATE_FILE, DIGESTS_FILE = "state.json", "digests.json"
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


def parts_of(folder: Path) -> list[str]:
    """The parts that it was sealed with; raises OSError or ValueError."""
    return [name for name in _digests(folder) if name != STATE_FILE]


def read_state(folder: Path) -> dict[str, Any]:
    """What stands in state.json; raises OSError, or ValueError if it is damaged."""
    content = (folder / STATE_FILE).read_bytes()
    if zlib.crc32(content) != _digests(folder).get(STATE_FILE):
        raise ValueError(f"the checksum of its {STATE_FILE} differs")
    state: dict[str, Any] = json.loads(content)
    return state


def require_sound(folder: Path, part: str) -> None:
    """Raises ValueError if a part is damaged, and OSError."""
    if checksum(folder / part) != _digests(folder).get(part):
        raise ValueError(f"the checksum of its {part} differs")


def seal(aside: Path, state: Mapping[str, Any]) -> None:
    """Make a folder of parts durable, and write their sums and the state beside them."""
    parts = sorted(each for each in aside.iterdir() if each.is_dir())
    for part in parts:
        flush(part)
    _write_state(aside, state, {part.name: checksum(part) for part in parts})


def amend(aside: Path, **known: Any) -> None:
    """Add to the state of a sealed folder that has no name yet."""
    digests = _digests(aside)
    _write_state(aside, read_state(aside) | known, digests)


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
    """Put right what a crash left in that place: half written, half deleted, or half replaced."""
    restore(place)
    for pattern in (*patterns, f"{REPLACED}*"):
        for left in place.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _digests(folder: Path) -> dict[str, int]:
    """By the names of its parts and of the file of its state."""
    digests = json.loads((folder / DIGESTS_FILE).read_bytes())
    if not isinstance(digests, dict):
        raise ValueError(f"its {DIGESTS_FILE} is damaged")  # noqa: TRY004 (no caller's mistake)
    return digests


def _write_state(aside: Path, state: Mapping[str, Any], digests: Mapping[str, int]) -> None:
    content = json.dumps(state).encode()
    (aside / STATE_FILE).write_bytes(content)
    (aside / DIGESTS_FILE).write_text(json.dumps({**digests, STATE_FILE: zlib.crc32(content)}))
    flush(aside)


def _unnamed(folder: Path, prefix: str) -> Path:
    aside = folder.with_name(f"{prefix}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)
