"""`areal attach`, `stop` and `logs`: a run that was left, and how to come back to it."""

import argparse
from typing import Any

from .options import WHERE, add_command, add_place, add_run, place, whole

ATTACH = """\
examples:
  areal attach quickstart
  areal attach quickstart-4f0c --broker redis://host:6379/0     from any machine that reaches its Redis
"""

STOP = """\
examples:
  areal stop quickstart                 the learner saves a checkpoint, workers hand back what they hold, and all end
  areal stop quickstart --now           at once; the run resumes from its newest checkpoint
  areal stop quickstart-4f0c --broker redis://host:6379/0

exit codes: 0 it has ended, 1 it was not under way, failed meanwhile, did not drain within cluster.drain_s (no last
checkpoint), or has not ended within --timeout
"""

LOGS = """\
ROLE is the name of a log in the run directory: learner, rollout-0, … and driver, for a run in the background. Without it, all
roles. With -f it ends when the run does.

examples:
  areal logs quickstart                         the last lines of every role, by time
  areal logs quickstart learner -f
  areal logs quickstart --level warning -n 20
"""


def add_attach(commands: Any) -> None:
    """`areal attach RUN`."""
    says = "follow a run that is under way; Ctrl-C leaves it running"
    add_place(add_command(commands, "attach", _attach, says, ATTACH + WHERE))


def add_stop(commands: Any) -> None:
    """`areal stop RUN`."""
    stop = add_command(commands, "stop", _stop, "have a run drain, save a checkpoint and end", STOP + WHERE)
    add_place(stop)
    stop.add_argument(
        "--now", action="store_true", help="at once, without a checkpoint; a driver on this machine may be killed"
    )
    stop.add_argument(
        "--timeout", type=whole(1), default=600, metavar="S", help="how many seconds to wait for its end (600)"
    )


def add_logs(commands: Any) -> None:
    """`areal logs RUN [ROLE …]`."""
    logs = add_command(commands, "logs", _logs, "show what the roles of a run have printed", LOGS)
    add_run(logs)
    logs.add_argument("roles", metavar="ROLE", nargs="*", default=[], help="learner, rollout-0, driver, …; all roles")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until the run ends")
    logs.add_argument("-n", type=whole(), default=100, dest="last", metavar="LINES", help="of each role at most (100)")
    logs.add_argument(
        "--level", choices=("debug", "info", "warning", "error"), default="debug", help="this and above (debug)"
    )


def _attach(options: argparse.Namespace) -> int:
    from ..control.attach import attach

    return attach(options.run, place(options))


def _stop(options: argparse.Namespace) -> int:
    from ..control.stop import stop

    return stop(options.run, place(options), now=options.now, timeout_s=options.timeout)


def _logs(options: argparse.Namespace) -> int:
    from ..control.locate import require_directory
    from ..control.logs import show_logs

    directory = require_directory(options.run, options.directory)
    return show_logs(directory, options.roles, last=options.last, level=options.level, follow=options.follow)
