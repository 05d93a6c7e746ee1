"""The command `areal`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__

EXAMPLES = """\
examples:
  areal run configs/quickstart.yaml                         train; run it again to resume where it stopped
  areal run configs/quickstart.yaml run=try2 learner.steps=20   the same under another name, with other settings
  areal check configs/quickstart.yaml                       print the resolved configuration, start nothing
  areal pretrain configs/warmstart_sort.yaml                make the small model that the quickstart starts from

exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted (and saved)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, do, and exit with the command's code."""
    options = _parser().parse_args(arguments)
    sys.exit(_guarded(options))


def _guarded(options: argparse.Namespace) -> int:
    from ..broker.errors import ArealError, ConfigError

    try:
        code: int = options.do(options)
        return code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except ArealError as error:
        if options.debug:
            raise
        print(f"\nareal: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:
        if options.debug:
            raise
        print(f"\nareal: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    from .config import load_run_config
    from .run import execute

    return execute(load_run_config(options.config, options.overrides), options.config.resolve().parent)


def _check(options: argparse.Namespace) -> int:
    from .config import load_run_config, to_yaml

    print(to_yaml(load_run_config(options.config, options.overrides)), end="")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from .config import load_warmstart_config
    from .pretrain import execute

    return execute(load_warmstart_config(options.config, options.overrides))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="areal",
        description="Asynchronous RL post-training: rollout workers and a learner, with a Redis broker between them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"areal {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, do, says in (
        ("run", _run, "train by a configuration, or resume where it stopped"),
        ("check", _check, "check a configuration and print it resolved"),
        ("pretrain", _pretrain, "make a small model from nothing, for a synthetic problem"),
    ):
        command = commands.add_parser(name, help=says, description=says.capitalize() + ".")
        command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, as in configs/")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="settings that differ, as in learner.steps=20"
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(do=do)
    return parser
