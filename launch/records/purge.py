"""`areal purge`: the end of all that Redis holds of a run."""

import sys
from contextlib import nullcontext

from ...broker.errors import ArealError
from ...broker.runs import count_keys
from ...broker.runs import purge as purge_keys
from ..control.locate import Located
from ..screen import Screen, plural, safe
from .rundir import hold


def purge(run: Located, *, yes: bool) -> int:
    """Delete all keys of a run that nobody works on, once a person has agreed. Raises ArealError."""
    _refuse_if_at_work(run)
    with hold(run.directory) if run.directory else nullcontext():  # so that no `areal run` begins meanwhile
        keys = count_keys(run.client)[run.key]
        screen = Screen()
        if not keys:
            screen.put(f"{run.name} has no keys on redis at {run.redis}")
            return 0
        if not yes and not _agreed(f"Delete the {plural(keys, 'key')} of {run.name} on redis at {run.redis}?"):
            screen.put("nothing was deleted")
            return 1
        _refuse_if_at_work(run)  # the answer may have taken its time
        gone = purge_keys(run.client, run.key)
    left = f"{run.directory}/" if run.directory else "the run directory"
    screen.put(f"{plural(gone, 'key')} of {run.name} deleted; {left} is left as it is")
    return 0


def _refuse_if_at_work(run: Located) -> None:
    alive = [heard.member for heard in run.roll() if not heard.silent]
    if alive:
        members = ", ".join(f"{member.name} (process {member.pid} on {member.host})" for member in alive)
        raise ArealError(
            f"{run.name} is not purged, as it is at work: {members} {'was' if len(alive) == 1 else 'were'} heard within "
            f"the last {run.lease_s:g} s. Stop it first (areal stop), or wait if it has just died"
        )


def _agreed(question: str) -> bool:
    """Whether a person says yes; raises ArealError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ArealError("nothing was deleted: there is no terminal to ask on, and --yes was not given")
    try:
        return input(f"{safe(question)} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
