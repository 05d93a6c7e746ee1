"""Prove that the broker loses nothing, whatever dies: a run under faults, and the verdict of a ledger of the test's own.

    python -m tests.chaos --faults 200 --seed 0

A learner, three rollout workers, Redis and a proxy between them are processes of their own. What is left of a drill that
failed stays in --keep, if it is given.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .drill import drill
from .faults import KINDS
from .report import report_of, show, to_json
from .settings import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap-s", type=float, default=3.5, help="mean seconds between faults that are not in a burst")
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS], help="these kinds only")
    parser.add_argument("--keep", type=Path, help="a folder for the ledger and the logs, which stay there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "chaos.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 140)
    kinds = [kind for kind in KINDS if options.kinds is None or kind.name in options.kinds]
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outcome = drill(
            folder,
            kinds,
            faults=options.faults,
            seed=options.seed,
            gap_s=options.gap_s,
            say=lambda text: print(text, flush=True),
        )
    report = report_of(outcome)
    show(report, console)
    command = " ".join(["python -m tests.chaos", *sys.argv[1:]])
    kept = json.dumps(to_json(report, command=command, seed=options.seed), indent=1, ensure_ascii=False)
    options.out.write_text(kept + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
