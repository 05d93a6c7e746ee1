"""Prove that the cluster of docker-compose.yml trains and loses nothing: real containers, killed, cut off and restarted.

    python -m tests.cluster

Installs podman by apt where it is missing (as root), makes a base image, builds the project's, brings the compose file up,
and tears it down again. Images stay for the next time; `podman rmi` takes them away.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .mini import MiniCluster
from .podman import Unable
from .ready import make_ready
from .stages import Stages
from .trial import Outcome, Trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=(__doc__ or "").split("\n")[0])
    parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 140)
    stages = Stages()
    try:
        with tempfile.TemporaryDirectory() as folder:
            outcome = prove(Path(folder), stages)
    except Unable as error:
        print(f"not done: {error}", file=sys.stderr)
        return 1
    finally:
        console.print(stages.table())
    for problem in problems(outcome):
        console.print(f"[red]✗[/red] {problem}", highlight=False)
    console.print("[red]failed[/red]" if problems(outcome) else "[green]passed[/green]")
    return 1 if problems(outcome) else 0


def prove(folder: Path, stages: Stages) -> Outcome:
    """Everything, from installing podman on. Raises Unable where no container can be started, and AssertionError."""
    cluster = MiniCluster(*make_ready(folder, stages), folder)
    with cluster.up():
        try:
            with stages.stage("bring the cluster up"):
                cluster.await_nodes()
            return Trial(cluster, stages).run()
        except Exception:
            print(cluster.report(), flush=True)
            raise


def problems(outcome: Outcome) -> list[str]:
    """What is not as it should be."""
    wanted = {"steps": outcome.wanted_steps, "groups_lost": 0, "groups_trained_twice": 0, "dead_letters": 0}
    found = [
        f"{key} is {outcome.summary.get(key)}, and {value} was wanted"
        for key, value in wanted.items()
        if outcome.summary.get(key) != value
    ]
    if outcome.drained != 130:
        found.append(f"the drained run ended with exit code {outcome.drained}, and 130 was wanted")
    if outcome.finished != 0:
        found.append(f"the resumed run ended with exit code {outcome.finished}, and 0 was wanted")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
