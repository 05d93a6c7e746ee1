"""What commands are made of, and the options that several share."""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..control.locate import Located, Place

RAW = argparse.RawDescriptionHelpFormatter

WHERE = """
RUN is a run directory, or the name of one in --directory; its Redis is found by itself, and a stopped run's own Redis is
started for as long as the command takes. With --broker, RUN is the key of a run there, or what only one key begins with.
The user and the password of a Redis are best given as AREAL_REDIS_USERNAME and AREAL_REDIS_PASSWORD.
"""


def add_command(
    commands: Any,
    name: str,
    do: Callable[[argparse.Namespace], int],
    says: str,
    epilog: str = "",
    *,
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """The parser of a new command, which calls `do`; `says` is its line in the help, `aliases` are other names of it."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, aliases=aliases, help=says, description=sentence(says), epilog=epilog, formatter_class=RAW
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(do=do)
    return command


def add_place(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """RUN, --directory and --broker: a run that may be on any Redis."""
    add_run(command, "a run's directory, name or key", optional=optional)
    command.add_argument(
        "--broker",
        default=os.environ.get("AREAL_BROKER_URL") or None,
        metavar="URL",
        help="a Redis to look on, in place of the run directory's (AREAL_BROKER_URL)",
    )


def add_run(
    command: argparse.ArgumentParser, says: str = "a run's directory or name", *, optional: bool = False
) -> None:
    """RUN and --directory: a run that has a directory here."""
    command.add_argument("run", metavar="RUN", nargs="?" if optional else None, help=says)
    command.add_argument(
        "--directory", type=Path, default=Path("runs"), metavar="DIR", help="folder of the run directories (runs)"
    )


def add_output(command: argparse.ArgumentParser, default: str) -> None:
    """--output."""
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"folder to make; {default} in the run directory by default"
    )


def add_json(command: argparse.ArgumentParser) -> None:
    """--json."""
    command.add_argument("--json", action="store_true", help="for programs: a line of JSON for each")


def whole(least: int = 0) -> Callable[[str], int]:
    """Reads a whole number, of so much or more."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"a whole number of {least} or more is wanted, not {text!r}")
        return value

    return read


def sentence(says: str) -> str:
    """A line of help, as a sentence."""
    return says[0].upper() + says[1:] + "."


def opened(options: argparse.Namespace) -> "AbstractContextManager[Located]":
    """The run that `add_place` has let the user name."""
    from ..control.locate import open_run

    return open_run(options.run, place(options))


def place(options: argparse.Namespace) -> "Place":
    """Where `add_place` has let the user look for runs."""
    from ..control.locate import Place

    return Place(options.directory, options.broker)
