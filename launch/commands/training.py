"""`areal run`, `check`, `pretrain` and `replay`: what trains, or would."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, add_run, whole

REPLAY = """\
RUN is a run directory, or the name of one in --directory, that ran with learner.record=true. The same command again goes
on where it stopped.

examples:
  areal replay quickstart                         the same again: the metrics are compared with the run's
  areal replay quickstart learner.optimizer.lr=1e-4 algorithm.aggregate=sequence
  areal replay quickstart --from 40 --steps 10    from the run's checkpoint of step 40
"""


def add_training(commands: Any) -> None:
    """`areal run|check|pretrain CONFIG …`."""
    for name, do, says in (
        ("run", _run, "train by a configuration, or resume where it stopped"),
        ("check", _check, "check a configuration and print it resolved"),
        ("pretrain", _pretrain, "make a small model from nothing, for a synthetic problem"),
    ):
        command = add_command(commands, name, do, says)
        command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, as in configs/")
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help="settings that differ, as in learner.steps=20"
        )
        if name == "run":
            background = (
                "run in the background, and return once it is under way; see areal attach, status, logs and stop"
            )
            command.add_argument("--detach", action="store_true", help=background)


def add_replay(commands: Any) -> None:
    """`areal replay RUN …`."""
    says = "train again on the groups that a run has recorded, and compare"
    replay = add_command(commands, "replay", _replay, says, REPLAY)
    add_run(replay)
    settings = "settings that differ from the run's"
    replay.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=settings)
    begins = "begin at the run's checkpoint of that step; at 0, the default, from the model itself"
    replay.add_argument("--from", type=whole(), default=0, dest="start", metavar="STEP", help=begins)
    replay.add_argument(
        "--steps", type=whole(1), metavar="N", help="how many to take; by default all that are recorded"
    )
    replay.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (replay-N in the run directory)")


def _run(options: argparse.Namespace) -> int:
    from ..config import load_run_config

    config = load_run_config(options.config, options.overrides)
    if options.detach:
        from ..driver.detach import start

        return start(options.config, options.overrides, config.path)
    from ..driver.run import execute

    return execute(config, options.config.resolve().parent)


def _check(options: argparse.Namespace) -> int:
    from ..config import load_run_config, to_yaml

    print(to_yaml(load_run_config(options.config, options.overrides)), end="")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from ..config import load_pretrain_config
    from ..models.pretrain import execute

    return execute(load_pretrain_config(options.config, options.overrides))


def _replay(options: argparse.Namespace) -> int:
    from ..control.locate import require_directory
    from ..records.replay import Span, execute

    directory = require_directory(options.run, options.directory)
    return execute(directory, options.overrides, Span(options.start, options.steps), options.output)
