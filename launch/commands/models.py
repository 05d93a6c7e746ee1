"""`areal export`, `areal merge` and `areal sample`: what a run has learned, as a model, or as images."""

import argparse
import math
from pathlib import Path
from typing import Any

from .options import add_command, add_output, add_run, whole

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


SAMPLE_EXAMPLES = """\
examples:
  areal sample rlcm_digits_compress                          the newest checkpoint, of the rows that evaluations are made of
  areal sample rlcm_digits_align --prompt 3 --prompt 8 --each 8
  areal sample rlcm_dreamshaper_aesthetic --prompt 'a llama' --step 200 --output llama.png

A sheet of images: left those of the model that the run began from, right those of the run, of the same noise.
"""


def add_export(commands: Any) -> None:
    """`areal export RUN …`."""
    says = "write the weights of a checkpoint in Hugging Face format"
    command = add_command(commands, "export", _export, says, EXPORT_EXAMPLES)
    add_run(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--step", type=whole(), metavar="N", help="the step they are of; the newest by default")
    which.add_argument("--best", action="store_true", help="those of the best evaluation (checkpoint.best)")
    command.add_argument("--merged", action="store_true", help="with LoRA: the model with the adapter merged in")
    add_output(command, "export-step-N")


def add_merge(commands: Any) -> None:
    """`areal merge RUN …`."""
    says = "average saved checkpoints into one model in Hugging Face format"
    command = add_command(commands, "merge", _merge, says, MERGE_EXAMPLES)
    add_run(command)
    command.add_argument("--steps", type=_integers, required=True, metavar="N,N,…", help="the steps to be averaged")
    how = command.add_mutually_exclusive_group()
    weights = "of each step, as in --weights=-1,2; they are divided by their sum"
    how.add_argument("--weights", type=_numbers, metavar="W,W,…", help=weights)
    how.add_argument(
        "--by", choices=("uniform", "metric", "search"), default="uniform", help="how weights are found (uniform)"
    )
    command.add_argument("--score", metavar="./FILE.py:FUNCTION", help="what the search makes as high as it can")
    command.add_argument("--evaluations", type=whole(1), metavar="N", help="scores that the search takes (50)")
    command.add_argument("--seed", type=whole(), metavar="N", help="of the search (0)")
    add_output(command, "merge-steps-FIRST-LAST")


def add_sample(commands: Any) -> None:
    """`areal sample RUN …`."""
    says = "draw images of an image policy, before and now"
    command = add_command(commands, "sample", _sample, says, SAMPLE_EXAMPLES)
    add_run(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=whole(), metavar="N", help="the step whose weights are used; the newest by default"
    )
    which.add_argument("--best", action="store_true", help="those of the best evaluation (checkpoint.best)")
    command.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to draw, or the number of a class; repeatable",
    )
    command.add_argument("--each", type=whole(1), default=4, metavar="N", help="images of each row (4)")
    command.add_argument(
        "--seed", type=whole(), default=0, metavar="N", help="of the noise; 0 is that of evaluations (0)"
    )
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="the PNG; sample-step-N.png in the run directory by default"
    )


def _sample(options: argparse.Namespace) -> int:
    from ..models.export import source_of
    from ..models.sample import Wanted, sample

    wanted = Wanted(options.step, options.best, options.prompt, options.each, options.seed)
    return sample(source_of(options.run, options.directory), wanted, output=options.output)


def _export(options: argparse.Namespace) -> int:
    from ..models.export import Wanted, export, source_of

    source = source_of(options.run, options.directory)
    return export(source, Wanted(options.step, options.best, options.merged), output=options.output)


def _merge(options: argparse.Namespace) -> int:
    from ..models.export import source_of
    from ..models.merge import Choice, merge

    choice = Choice(options.by, options.weights, options.score, options.evaluations, options.seed)
    return merge(source_of(options.run, options.directory), options.steps, choice, output=options.output)


def _integers(text: str) -> list[int]:
    try:
        return [whole()(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"whole numbers are wanted, as in 20,40,60, not {text!r}") from None


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"numbers are wanted, as in 0.2,0.3,0.5, not {text!r}")
    return numbers
