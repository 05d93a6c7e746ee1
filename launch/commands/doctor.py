"""`areal doctor`: what is here, what is missing, and how to mend it."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, add_json

EXAMPLES = """\
examples:
  areal doctor                                            this machine
  areal doctor configs/quickstart.yaml                    and what that run wants of it
  areal doctor mine.yaml cluster.address=auto broker.url=redis://host:6379/0 --json | jq 'select(.level != "ok")'

Nothing is started but a Redis for a moment, and with cluster.address a look at each node by Ray.
exit codes: 0 ok, or warnings alone; 1 there are problems; 2 bad usage or configuration
"""


def add_doctor(commands: Any) -> None:
    """`areal doctor [CONFIG] …`."""
    says = "look whether this machine, or a cluster, can do what a configuration wants, and say what to mend"
    doctor = add_command(commands, "doctor", _doctor, says, EXAMPLES)
    doctor.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="a YAML file; without it this machine alone is looked at"
    )
    doctor.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that differ, as in learner.ranks=2"
    )
    add_json(doctor)


def _doctor(options: argparse.Namespace) -> int:
    from ..config import load_run_config
    from ..doctor.examination import examine

    if options.config is None:
        return examine(None, Path.cwd(), as_json=options.json)
    config = load_run_config(options.config, options.overrides)
    return examine(config, options.config.resolve().parent, as_json=options.json)
