"""`areal runs` and `areal purge`: what runs there are, and the end of one."""

import argparse
from typing import Any

from .options import WHERE, add_command, add_json, add_place, opened, place

RUNS_EXAMPLES = """\
examples:
  areal runs                                      those with a directory in runs/
  areal runs quickstart                           one: what its lanes hold, and who is at work for it
  areal runs --broker redis://host:6379/0         those that have keys on a Redis
"""

PURGE_EXAMPLES = """\
examples:
  areal purge quickstart                          asks first
  areal purge quickstart-4f0c --broker redis://host:6379/0 --yes
"""


def add_runs(commands: Any) -> None:
    """`areal runs [RUN]`."""
    runs = add_command(commands, "runs", _runs, "list the runs, or show one", RUNS_EXAMPLES + WHERE)
    add_place(runs, optional=True)
    add_json(runs)


def add_purge(commands: Any) -> None:
    """`areal purge RUN`."""
    purge = add_command(commands, "purge", _purge, "delete all that Redis holds of a run", PURGE_EXAMPLES + WHERE)
    add_place(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask")


def _runs(options: argparse.Namespace) -> int:
    from ..runs import show_run, show_runs

    if options.run is None:
        return show_runs(place(options), as_json=options.json)
    with opened(options) as run:
        return show_run(run, as_json=options.json)


def _purge(options: argparse.Namespace) -> int:
    from ..runs import purge

    with opened(options) as run:
        return purge(run, yes=options.yes)
