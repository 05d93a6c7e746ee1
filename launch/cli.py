"""The command `areal`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from .. import __version__
from .commands import control, dead, doctor, fleet, models, reward, runs, training
from .commands.options import RAW

EXAMPLES = """\
examples:
  areal run configs/quickstart.yaml                         train; run it again to resume where it stopped
  areal run configs/quickstart.yaml run=try2 learner.steps=20   the same under another name, with other settings
  areal check configs/quickstart.yaml                       print the resolved configuration, start nothing
  areal doctor configs/quickstart.yaml                      what this machine lacks for it, and how to mend it
  areal pretrain configs/warmstart_sort.yaml                make the small model that the quickstart starts from
  areal replay quickstart algorithm.objective.name=gspo     train again on the groups that a run recorded
  areal reward try ./mine.py:f --config CONFIG              what a reward says of rows, before a run is started with it
  areal run configs/quickstart.yaml --detach                the same in the background
  areal attach quickstart                                   follow it; areal logs and areal stop do what they say
  areal status                                              which runs there are, and how each does
  areal scale quickstart rollout=4                          more workers, or fewer, while it goes on
  areal join redis://host:6379/0 quickstart                 workers of this machine for a run elsewhere
  areal dead list quickstart                                what could not be done, and why
  areal export quickstart                                   the newest checkpoint, as vLLM and transformers load it
  areal sample rlcm_digits_compress                         images of an image policy, before and now

exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted (and saved)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, do, and exit with the command's code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes none that follow an option
        options.overrides += rest
    sys.exit(guarded(partial(options.do, options), debug=options.debug))


def guarded(do: Callable[[], int], *, debug: bool = False) -> int:
    """The exit code of what is done, or of the error that it ends on, which is told; with `debug` it is raised."""
    from ..broker.errors import ArealError, ConfigError
    from .screen import safe

    try:
        code = do()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as `areal … | head` does; nothing more can be told there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ArealError as error:
        if debug:
            raise
        print(f"\nareal: {safe(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:
        if debug:
            raise
        print(f"\nareal: {type(error).__name__}: {safe(str(error))} (--debug shows where)", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="areal",
        description="Asynchronous RL post-training: rollout workers and a learner, with a Redis broker between them.",
        epilog=EXAMPLES,
        formatter_class=RAW,
    )
    parser.add_argument("--version", action="version", version=f"areal {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    training.add_training(commands)
    training.add_replay(commands)
    doctor.add_doctor(commands)
    reward.add_reward(commands)
    control.add_attach(commands)
    runs.add_status(commands)
    control.add_logs(commands)
    control.add_stop(commands)
    fleet.add_scale(commands)
    fleet.add_join(commands)
    dead.add_dead(commands)
    runs.add_purge(commands)
    models.add_export(commands)
    models.add_merge(commands)
    models.add_sample(commands)
    return parser
