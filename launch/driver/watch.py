"""Tells who of a run has fallen silent, and who is heard again."""

import time

from ...broker.rollcall import Heard, RollCall

LOOK_EVERY_S = 1.0
ROUNDED_S = 0.005
"""How far off the age of a word may be: the server has it in ms."""


class RollWatch:
    """Looks at the roll-call now and then."""

    def __init__(self, roll: RollCall) -> None:
        self._roll = roll
        self._silent: set[str] = set()
        self._looked_at = 0.0
        self._began = time.monotonic()

    def changes(self) -> list[tuple[str, str]]:
        """(level, text) of what has changed since the last look; nothing where that was just now."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return []
        self._looked_at = time.monotonic()
        heard = self._roll.heard()
        since_s = time.monotonic() - self._began + ROUNDED_S  # who was silent before is of an earlier driver
        silent = {each.member.name for each in heard if each.silent and each.ago_s < since_s}
        told = [("warning", _silent(each)) for each in heard if each.member.name in silent - self._silent]
        told += [("info", f"{name} is heard again") for name in sorted(self._silent - silent) if _is_there(name, heard)]
        self._silent = silent
        return told


def _silent(heard: Heard) -> str:
    member = heard.member
    return (
        f"{member.name} (process {member.pid} on {member.host}) has been silent for {heard.ago_s:.0f} s; "
        "what it was working on goes to others"
    )


def _is_there(name: str, heard: list[Heard]) -> bool:
    return any(each.member.name == name for each in heard)
