"""`areal reward try`: what a reward function says, before a run is started with it."""

import argparse
from pathlib import Path
from typing import Any

from .options import RAW, add_command, sentence, whole

EXAMPLES = """\
examples:
  areal reward try ./my_reward.py:brevity --config configs/quickstart.yaml
  areal reward try ./my_reward.py:brevity --config configs/quickstart.yaml --generate --each 4
  areal reward try arithmetic --row '{"prompt": "2+2=", "answer": 4}' --completion 'It is 4.' --completion 'Five.'
  areal reward try jpeg_compressibility --config configs/rlcm_digits_compress.yaml --n 3

It runs as in a run: in a process of its own, under the deadline of the configuration's rewards.timeout_s, but is not tried again.
Without --completion and --generate the answer to a row is its own column `answer`. Of an image policy, images are made.
"""


def add_reward(commands: Any) -> None:
    """`areal reward try NAME …`."""
    says = "try a reward function"
    reward = commands.add_parser("reward", help=says, description=sentence(says), epilog=EXAMPLES, formatter_class=RAW)
    actions = reward.add_subparsers(title="what to do", metavar="ACTION", required=True)
    says = "call it on rows of a data set, and show what it returns, how long it takes, and how it fails"
    command = add_command(actions, "try", _try, says, EXAMPLES)
    command.add_argument(
        "name",
        metavar="REWARD",
        help="a bundled reward, an entry point, or ./file.py:function, as in rewards.functions",
    )
    command.add_argument(
        "--config", type=Path, metavar="CONFIG", help="whose rows, model, kwargs and deadline are taken"
    )
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that differ from CONFIG's"
    )
    command.add_argument("--n", type=whole(1), default=8, metavar="N", help="rows (8)")
    command.add_argument("--row", metavar="JSON", help="a row to try it on, in place of a data set's")
    command.add_argument("--completion", action="append", default=[], metavar="TEXT", help="an answer; may be repeated")
    command.add_argument("--generate", action="store_true", help="have the model of CONFIG answer")
    command.add_argument("--each", type=whole(1), default=1, metavar="G", help="answers that are made for each row (1)")
    command.add_argument("--kwargs", metavar="JSON", help="keyword arguments, in place of those of CONFIG")


def _try(options: argparse.Namespace) -> int:
    from ..config import load_run_config
    from ..models.tryout import Trial, execute, read_json

    config = load_run_config(options.config, options.overrides) if options.config is not None else None
    trial = Trial(
        name=options.name,
        kwargs=None if options.kwargs is None else read_json("--kwargs", options.kwargs),
        count=options.n,
        row=None if options.row is None else read_json("--row", options.row),
        completions=options.completion,
        generate=options.generate,
        each=options.each,
    )
    return execute(config, trial)
