"""How the newest driver of a run does, by what it has said of itself and by whether it is there.

In a run directory the lock is the truth: the kernel lets go of it when its holder ends, however it ends.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from ...broker.helm import STOPPED, Driving, Helm
from ..driver.logbook import read_driving
from ..records.rundir import holder, is_held

SILENT_AFTER_S = 15.0
"""A driver on another machine that has not been heard for so long is gone."""

GUARDED_S = 90.0
"""How long a driver that was killed may take to be replaced, where it is guarded."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a run's newest driver.

    alive: whether it is there, whatever it has said of its end.
    held: whether anyone holds the run directory: this driver, or the next one, which has said nothing yet.
    """

    driving: Driving | None
    alive: bool
    held: bool = False

    @property
    def gone(self) -> bool:
        """Whether it has ended without a word, and no other is about to begin."""
        return self.driving is not None and not self.alive and not self.held and not self.driving.ended

    @property
    def awaited(self) -> bool:
        """Whether it is gone, and its guard is about to start another."""
        return self.gone and self.driving is not None and _is_guarded(self.driving)

    @property
    def coming(self) -> bool:
        """Whether a driver is there, or is about to begin."""
        return self.held or self.awaited

    @property
    def displaced(self) -> bool:
        """Whether it has ended without a word, and another holds the directory: the next driver, which has said nothing yet."""
        return self.driving is not None and not self.alive and self.held and not self.driving.ended

    @property
    def over(self) -> bool:
        """Whether it has ended as it said."""
        return self.driving is not None and not self.alive and self.driving.ended


def look_into(directory: Path) -> Look:
    """How the driver of a run directory does: one that is there holds the lock, and has written its name on it."""
    held, driving = is_held(directory), read_driving(directory)
    return Look(driving, held and driving is not None and holder(directory) == _name(driving), held)


def heard_on(helm: Helm) -> Look:
    """How the driver does that was last heard there. Raises BrokerUnavailable."""
    heard = helm.heard()
    if heard is None:
        return Look(None, alive=False)
    driving, ago_s = heard
    return Look(driving, alive=not driving.ended and ago_s < SILENT_AFTER_S)


def how_it_stands(look: Look) -> str:
    """In words, how a run's driver does or how it ended."""
    driving = look.driving
    if driving is None:
        return "its run directory is in use" if look.held else "no driver of it is known"
    who = _name(driving)
    if look.awaited:
        return f"its driver ({who}) was killed; its guard (process {driving.guard}) has not started another yet"
    if look.gone:
        return f"its driver ({who}) was killed; the same `areal run` resumes it"
    if look.displaced:
        return f"its driver ({who}) is gone, and another process holds its run directory"
    if not driving.ended:
        return f"it is {driving.state} ({who})"
    if driving.error:
        how = "was stopped" if driving.state == STOPPED else "has failed"
        return f"it {how} (exit code {driving.exit_code}): {driving.error}"
    return "it was stopped; the same `areal run` resumes it" if driving.state == STOPPED else "it is done"


def is_here(driving: Driving) -> bool:
    """Whether that driver is, or was, a process of this machine."""
    return driving.host == socket.gethostname()


def _is_guarded(driving: Driving) -> bool:
    """Whether its guard is there, as far as can be seen from here."""
    if driving.guard is None or not is_here(driving):
        return driving.guard is not None
    try:
        os.kill(driving.guard, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of somebody else's
        return True
    return True


def _name(driving: Driving) -> str:
    """As rundir.hold writes it on the lock."""
    return f"process {driving.pid} on {driving.host}"
