"""`areal scale` and `areal join`: workers that come and go while a run goes on."""

import argparse
from pathlib import Path
from typing import Any

from .options import WHERE, add_command, add_place, opened, whole

SCALE_EXAMPLES = """\
examples:
  areal scale quickstart rollout=4                more workers, or fewer, and wait until they are at work
  areal scale quickstart rollout=1 --no-wait      the newest leave, each when it has finished what is under way

A run that is started again begins with the rollout.workers of its configuration.
"""

JOIN_EXAMPLES = """\
examples:
  areal join redis://host:6379/0 quickstart                         a worker on this machine, until Ctrl-C or the run's end
  areal join rediss://host:6379/0 quickstart --workers 4 rollout.threads=2
  areal join redis://host:6379/0 gsm8k model.path=/models/qwen directory=/mnt/runs

The run's configuration comes from Redis; what differs on this machine is given as key=value. RUN is the key of a run there, or
what only one key begins with. The user and the password are best given as AREAL_REDIS_USERNAME and AREAL_REDIS_PASSWORD.
Ctrl-C: the workers finish what is under way and leave; a second one: they hand it back at once; a third: they are killed.
"""


def add_scale(commands: Any) -> None:
    """`areal scale RUN rollout=N`."""
    says = "set the number of rollout workers of a run that is under way"
    command = add_command(commands, "scale", _scale, says, SCALE_EXAMPLES + WHERE)
    add_place(command)
    command.add_argument("sizes", nargs="+", metavar="rollout=N", help="how many workers there shall be")
    command.add_argument("--no-wait", action="store_true", help="return as soon as the run knows")
    command.add_argument(
        "--timeout",
        type=whole(1),
        default=600,
        metavar="S",
        help="how many seconds to wait for the driver and the workers (600)",
    )


def add_join(commands: Any) -> None:
    """`areal join REDIS_URL RUN`."""
    says = "add rollout workers on this machine to a run that is under way elsewhere"
    command = add_command(commands, "join", _join, says, JOIN_EXAMPLES)
    command.add_argument("url", metavar="REDIS_URL", help="the run's Redis, as broker.url has it")
    command.add_argument("run", metavar="RUN", help="a run's key, or its beginning")
    settings = "settings that differ here, as in model.path=/models/mine"
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=settings)
    command.add_argument("--role", choices=("rollout",), default="rollout", help="what to join as (rollout)")
    command.add_argument("--workers", type=whole(1), default=1, metavar="N", help="how many (1)")
    command.add_argument(
        "--logs",
        type=Path,
        metavar="FOLDER",
        help="folder whose logs/ they write to (joined/RUN in the working directory)",
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="run whatever code the run's configuration in Redis names, wherever it lies here",
    )


def _scale(options: argparse.Namespace) -> int:
    from ..fleet.scale import read_sizes, scale

    count = read_sizes(options.sizes)
    with opened(options) as run:
        return scale(run, count, wait=not options.no_wait, timeout_s=options.timeout)


def _join(options: argparse.Namespace) -> int:
    from ..fleet.join import Wanted, execute

    return execute(Wanted(options.url, options.run, options.workers, options.overrides, options.trust, options.logs))
