"""`areal dead list|show|retry|drop`: what could not be done, and what becomes of it."""

import argparse
from collections.abc import Sequence
from typing import Any

from .options import RAW, WHERE, add_command, add_json, add_place, opened, sentence

EXAMPLES = """\
examples:
  areal dead list quickstart                      a line for each, with the cause
  areal dead show quickstart 1763914438123-0      the whole cause, and what died; 17639144 does if it is the only one
  areal dead retry quickstart --all               have all tried again, when the learner has room
  areal dead drop quickstart 1763914438123-0      forget one; its position is never issued again
  areal dead list quickstart --json | jq -r .cause
"""


def add_dead(commands: Any) -> None:
    """`areal dead list|show|retry|drop RUN …`."""
    says = "show what could not be done (dead letters), and have it tried again or dropped"
    dead = commands.add_parser("dead", help=says, description=sentence(says), epilog=EXAMPLES, formatter_class=RAW)
    actions = dead.add_subparsers(title="what to do", metavar="ACTION", required=True)
    for name, do, says in (
        ("list", _list, "a line for each, the oldest first"),
        ("show", _show, "all there is to know of some: the whole cause, and what died"),
        (
            "retry",
            _retry,
            "have them tried again, as soon as the learner has room or when the run is next started",
        ),
        ("drop", _drop, "forget them for good: their positions are never issued again"),
    ):
        action = add_command(actions, name, do, says, EXAMPLES + WHERE)
        add_place(action)
        if name != "list":
            which = action.add_mutually_exclusive_group(required=True) if name != "show" else action
            number = "+" if name == "show" else "*"
            which.add_argument(
                "entries", nargs=number, metavar="ENTRY", default=[], help="as in the list, or its beginning"
            )
            if name != "show":
                which.add_argument("--all", action="store_true", help="all of them")
        if name in ("list", "show"):
            add_json(action)
        action.add_argument("--lane", choices=("train", "eval"), help="only this one; both by default")


def _list(options: argparse.Namespace) -> int:
    from ..records.letters import show_list

    with opened(options) as run:
        return show_list(run, _lanes(options), as_json=options.json)


def _show(options: argparse.Namespace) -> int:
    from ..records.letters import show

    with opened(options) as run:
        return show(run, _lanes(options), options.entries, as_json=options.json)


def _retry(options: argparse.Namespace) -> int:
    from ..records.letters import retry

    with opened(options) as run:
        return retry(run, _lanes(options), options.entries)


def _drop(options: argparse.Namespace) -> int:
    from ..records.letters import drop

    with opened(options) as run:
        return drop(run, _lanes(options), options.entries)


def _lanes(options: argparse.Namespace) -> Sequence[str]:
    return [options.lane] if options.lane else ["train", "eval"]
