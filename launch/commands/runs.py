"""`areal status` and `areal purge`: what runs there are, how one does, and the end of its keys."""

import argparse
from typing import Any

from .options import WHERE, add_command, add_json, add_place, opened, place

STATUS_EXAMPLES = """\
examples:
  areal status                                    those with a directory in runs/
  areal status quickstart                         one: its step, what its lanes hold, and who is at work for it
  areal status --broker redis://host:6379/0       those that have keys on a Redis
  areal runs                                      the same command
"""

PURGE_EXAMPLES = """\
examples:
  areal purge quickstart                          asks first
  areal purge quickstart-4f0c --broker redis://host:6379/0 --yes
"""


def add_status(commands: Any) -> None:
    """`areal status [RUN]`, or `areal runs`."""
    says = "list the runs and how they do, or show one"
    status = add_command(commands, "status", _status, says, STATUS_EXAMPLES + WHERE, aliases=("runs",))
    add_place(status, optional=True)
    add_json(status)


def add_purge(commands: Any) -> None:
    """`areal purge RUN`."""
    purge = add_command(commands, "purge", _purge, "delete all that Redis holds of a run", PURGE_EXAMPLES + WHERE)
    add_place(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask")


def _status(options: argparse.Namespace) -> int:
    from ..control.runs import show_run, show_runs

    if options.run is None:
        return show_runs(place(options), as_json=options.json)
    return show_run(options.run, place(options), as_json=options.json)


def _purge(options: argparse.Namespace) -> int:
    from ..records.purge import purge

    with opened(options) as run:
        return purge(run, yes=options.yes)
