"""The command `areal`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    from .locate import Located, Place

RAW = argparse.RawDescriptionHelpFormatter

EXAMPLES = """\
examples:
  areal run configs/quickstart.yaml                         train; run it again to resume where it stopped
  areal run configs/quickstart.yaml run=try2 learner.steps=20   the same under another name, with other settings
  areal check configs/quickstart.yaml                       print the resolved configuration, start nothing
  areal pretrain configs/warmstart_sort.yaml                make the small model that the quickstart starts from
  areal replay quickstart algorithm.objective.name=gspo     train again on the groups that a run recorded
  areal runs                                                which runs there are, and which of them run
  areal dead list quickstart                                what could not be done, and why
  areal export quickstart                                   the newest checkpoint, as vLLM and transformers load it

exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted (and saved)
"""

WHERE = """
RUN is a run directory, or the name of one in --directory; its Redis is found by itself, and a stopped run's own Redis is
started for as long as the command takes. With --broker, RUN is the key of a run there, or what only one key begins with.
The user and the password of a Redis are best given as AREAL_REDIS_USERNAME and AREAL_REDIS_PASSWORD.
"""

DEAD_EXAMPLES = """\
examples:
  areal dead list quickstart                      a line for each, with the cause
  areal dead show quickstart 1763914438123-0      the whole cause, and what died; 17639144 does if it is the only one
  areal dead retry quickstart --all               have all tried again, when the learner has room
  areal dead drop quickstart 1763914438123-0      forget one; its position is never issued again
  areal dead list quickstart --json | jq -r .cause
"""

RUNS_EXAMPLES = """\
examples:
  areal runs                                      those with a directory in runs/
  areal runs quickstart                           one: what its lanes hold, and who is at work for it
  areal runs --broker redis://host:6379/0         those that have keys on a Redis
"""

REPLAY = """\
RUN is a run directory, or the name of one in --directory, that ran with learner.record=true. The same command again goes
on where it stopped.

examples:
  areal replay quickstart                         the same again: the metrics are compared with the run's
  areal replay quickstart learner.optimizer.lr=1e-4 algorithm.aggregate=sequence
  areal replay quickstart --from 40 --steps 10    from the run's checkpoint of step 40
"""

PURGE_EXAMPLES = """\
examples:
  areal purge quickstart                          asks first
  areal purge quickstart-4f0c --broker redis://host:6379/0 --yes
"""

EXPORT_EXAMPLES = """\
examples:
  areal export quickstart                         the newest checkpoint, into runs/quickstart/export-step-N/
  areal export quickstart --step 40 --output ./forty
  areal export quickstart --best                  those that were evaluated best
  areal export smollm2_arithmetic --merged        of a LoRA run: the whole model, not the adapter alone

It may be called while the run goes on. A run keeps its newest checkpoints (checkpoint.keep), and for good the weights of
every checkpoint.archive_every_steps steps and those of its best evaluations (checkpoint.best).
"""

MERGE_EXAMPLES = """\
examples:
  areal merge quickstart --steps 20,40,60                           their mean
  areal merge quickstart --steps 20,40,60 --weights=-0.2,0.4,0.8    in these proportions; they may be negative
  areal merge quickstart --steps 20,40,60 --by metric               the better it was evaluated, the more it weighs
  areal merge quickstart --steps 20,40,60 --by search --score ./score.py:score --evaluations 50

A score is a Python function that takes the folder of a model (a Path) and returns a number, the higher the better. Of a
LoRA run the products of the adapters are averaged, and the whole model is written.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, do, and exit with the command's code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes none that follow an option
        options.overrides += rest
    sys.exit(_guarded(options))


def _guarded(options: argparse.Namespace) -> int:
    from ..broker.errors import ArealError, ConfigError
    from .screen import safe

    try:
        code: int = options.do(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as `areal … | head` does; nothing more can be told there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ArealError as error:
        if options.debug:
            raise
        print(f"\nareal: {safe(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:
        if options.debug:
            raise
        print(f"\nareal: {type(error).__name__}: {safe(str(error))} (--debug shows where)", file=sys.stderr)
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


def _replay(options: argparse.Namespace) -> int:
    from .locate import require_directory
    from .replay import Span, execute

    directory = require_directory(options.run, options.directory)
    return execute(directory, options.overrides, Span(options.start, options.steps), options.output)


def _dead_list(options: argparse.Namespace) -> int:
    from .letters import show_list

    with _opened(options) as run:
        return show_list(run, _lanes(options), as_json=options.json)


def _dead_show(options: argparse.Namespace) -> int:
    from .letters import show

    with _opened(options) as run:
        return show(run, _lanes(options), options.entries, as_json=options.json)


def _dead_retry(options: argparse.Namespace) -> int:
    from .letters import retry

    with _opened(options) as run:
        return retry(run, _lanes(options), options.entries)


def _dead_drop(options: argparse.Namespace) -> int:
    from .letters import drop

    with _opened(options) as run:
        return drop(run, _lanes(options), options.entries)


def _runs(options: argparse.Namespace) -> int:
    from .runs import show_run, show_runs

    if options.run is None:
        return show_runs(_place(options), as_json=options.json)
    with _opened(options) as run:
        return show_run(run, as_json=options.json)


def _purge(options: argparse.Namespace) -> int:
    from .runs import purge

    with _opened(options) as run:
        return purge(run, yes=options.yes)


def _export(options: argparse.Namespace) -> int:
    from .export import Wanted, export, source_of

    source = source_of(options.run, options.directory)
    return export(source, Wanted(options.step, options.best, options.merged), output=options.output)


def _merge(options: argparse.Namespace) -> int:
    from .export import source_of
    from .merge import Choice, merge

    choice = Choice(options.by, options.weights, options.score, options.evaluations, options.seed)
    return merge(source_of(options.run, options.directory), options.steps, choice, output=options.output)


def _opened(options: argparse.Namespace) -> "AbstractContextManager[Located]":
    from .locate import open_run

    return open_run(options.run, _place(options))


def _place(options: argparse.Namespace) -> "Place":
    from .locate import Place

    return Place(options.directory, options.broker)


def _lanes(options: argparse.Namespace) -> Sequence[str]:
    return [options.lane] if options.lane else ["train", "eval"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="areal",
        description="Asynchronous RL post-training: rollout workers and a learner, with a Redis broker between them.",
        epilog=EXAMPLES,
        formatter_class=RAW,
    )
    parser.add_argument("--version", action="version", version=f"areal {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, do, says in (
        ("run", _run, "train by a configuration, or resume where it stopped"),
        ("check", _check, "check a configuration and print it resolved"),
        ("pretrain", _pretrain, "make a small model from nothing, for a synthetic problem"),
    ):
        command = _command(commands, name, do, says)
        command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, as in configs/")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="settings that differ, as in learner.steps=20"
        )
    _add_replay(commands)
    runs = _command(commands, "runs", _runs, "list the runs, or show one", RUNS_EXAMPLES + WHERE)
    _add_place(runs, optional=True)
    _add_json(runs)
    _add_dead(commands)
    purge = _command(commands, "purge", _purge, "delete all that Redis holds of a run", PURGE_EXAMPLES + WHERE)
    _add_place(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask")
    _add_export(commands)
    _add_merge(commands)
    return parser


def _add_replay(commands: Any) -> None:
    """`areal replay RUN …`."""
    says = "train again on the groups that a run has recorded, and compare"
    replay = _command(commands, "replay", _replay, says, REPLAY)
    _add_run(replay)
    replay.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the run's")
    replay.add_argument("--from", type=_count, default=0, dest="start", metavar="STEP", help="begin at a checkpoint")
    replay.add_argument("--steps", type=_count, metavar="N", help="how many steps to take; all that are recorded")
    replay.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (replay-N in the run directory)")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def _add_export(commands: Any) -> None:
    says = "write the weights of a checkpoint in Hugging Face format"
    command = _command(commands, "export", _export, says, EXPORT_EXAMPLES)
    _add_run(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="the step they are of; the newest by default")
    which.add_argument("--best", action="store_true", help="those of the best evaluation (checkpoint.best)")
    command.add_argument("--merged", action="store_true", help="with LoRA: the model with the adapter merged in")
    _add_output(command, "export-step-N")


def _add_merge(commands: Any) -> None:
    says = "average saved checkpoints into one model in Hugging Face format"
    command = _command(commands, "merge", _merge, says, MERGE_EXAMPLES)
    _add_run(command)
    command.add_argument("--steps", type=_integers, required=True, metavar="N,N,…", help="the steps to be averaged")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--weights", type=_numbers, metavar="W,W,…", help="of each step; they are divided by their sum")
    how.add_argument(
        "--by", choices=("uniform", "metric", "search"), default="uniform", help="how weights are found (uniform)"
    )
    command.add_argument("--score", metavar="./FILE.py:FUNCTION", help="what the search makes as high as it can")
    command.add_argument("--evaluations", type=int, default=50, metavar="N", help="scores that the search takes (50)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the search (0)")
    _add_output(command, "merge-steps-FIRST-LAST")


def _add_dead(commands: Any) -> None:
    """`areal dead list|show|retry|drop RUN …`."""
    says = "show what could not be done (dead letters), and have it tried again or dropped"
    dead = commands.add_parser(
        "dead", help=says, description=_sentence(says), epilog=DEAD_EXAMPLES, formatter_class=RAW
    )
    actions = dead.add_subparsers(title="what to do", metavar="ACTION", required=True)
    for name, do, says in (
        ("list", _dead_list, "a line for each, the oldest first"),
        ("show", _dead_show, "all there is to know of some: the whole cause, and what died"),
        (
            "retry",
            _dead_retry,
            "have them tried again, as soon as the learner has room or when the run is next started",
        ),
        ("drop", _dead_drop, "forget them for good: their positions are never issued again"),
    ):
        action = _command(actions, name, do, says, DEAD_EXAMPLES + WHERE)
        _add_place(action)
        if name != "list":
            which = action.add_mutually_exclusive_group(required=True) if name != "show" else action
            number = "+" if name == "show" else "*"
            which.add_argument(
                "entries", nargs=number, metavar="ENTRY", default=[], help="as in the list, or its beginning"
            )
            if name != "show":
                which.add_argument("--all", action="store_true", help="all of them")
        if name in ("list", "show"):
            _add_json(action)
        action.add_argument("--lane", choices=("train", "eval"), help="only this one; both by default")


def _command(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], says: str, epilog: str = ""
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=says, description=_sentence(says), epilog=epilog, formatter_class=RAW
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(do=do)
    return command


def _add_place(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    _add_run(command, "a run's directory, name or key", optional=optional)
    command.add_argument(
        "--broker",
        default=os.environ.get("AREAL_BROKER_URL") or None,
        metavar="URL",
        help="a Redis to look on, in place of the run directory's (AREAL_BROKER_URL)",
    )


def _add_run(
    command: argparse.ArgumentParser, says: str = "a run's directory or name", *, optional: bool = False
) -> None:
    command.add_argument("run", metavar="RUN", nargs="?" if optional else None, help=says)
    command.add_argument(
        "--directory", type=Path, default=Path("runs"), metavar="DIR", help="folder of the run directories (runs)"
    )


def _add_output(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"folder to make; {default} in the run directory by default"
    )


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers are wanted, as in 20,40,60, not {text!r}") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers are wanted, as in 0.2,0.3,0.5, not {text!r}") from None


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs: a line of JSON for each")


def _sentence(says: str) -> str:
    return says[0].upper() + says[1:] + "."
