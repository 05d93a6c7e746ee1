"""What a configuration names: the model, the rows, the rewards and the sandbox that they run programs in."""

import os
from collections.abc import Iterator
from pathlib import Path

from ...broker.errors import ArealError
from ..config import RunConfig
from ..driver.inputs import check_judge, check_rewards, rows_of
from ..models.path import PACKAGE, resolve_model
from ..models.size import in_hub_cache
from .finding import Finding, ok, problem, warning

DEADLINE_S = 120.0
"""Rows of the hub are downloaded, and a user's reward may import much."""


def look_at_model(config: RunConfig, folder: Path) -> Iterator[Finding]:
    """Whether it is there, or can be downloaded."""
    path = config.model.path
    found = resolve_model(path, folder, pipeline=config.denoising is not None, convert=False)
    if isinstance(found, Path):
        made = found.is_dir()
        yield ok(
            "model",
            f"{found}" if made else f"{path.removeprefix(PACKAGE)} is installed, and converted by the first run",
        )
        return
    if (cached := in_hub_cache(found)) is not None:
        yield ok("model", f"{found}, downloaded to {cached}")
    elif os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield problem("model", f"{found} was not downloaded, and HF_HUB_OFFLINE is set", f"hf download {found}")
    else:
        yield warning("model", f"{found} was not downloaded yet: each node will, at the start", f"hf download {found}")


def look_at_rows(config: RunConfig) -> Iterator[Finding]:
    """Whether the rows can be read, and the judge of images knows those held out."""
    rows = rows_of(config)
    check_judge(config, rows.eval_rows())
    many = "made on the fly, without end" if rows.num_rows is None else f"{rows.num_rows:,}"
    source = config.dataset.source or f"a mixture of {len(config.dataset.mixture)}"
    yield ok("rows", f"{source}: {many}, {len(rows.eval_rows()):,} held out")


def look_at_rewards(config: RunConfig) -> Iterator[Finding]:
    """Whether the functions can be loaded, and take what they are given."""
    check_rewards(config)
    yield ok("rewards", ", ".join(reward.name for reward in config.rewards.functions))


def look_at_sandbox(config: RunConfig) -> Iterator[Finding]:
    """Whether there are walls for the programs that `code` runs."""
    from ...rewards.programs.sandbox.sandbox import find_walls
    from ...rewards.programs.sandbox.walls import ANY, UNSANDBOXED

    for reward in config.rewards.functions:
        if reward.name != "code":
            continue
        wanted = reward.kwargs.get("walls", ANY)
        if wanted == UNSANDBOXED:
            remedy = "leave kwargs.walls out, to have them run in a sandbox"
            yield warning("sandbox", "programs that the model writes run without one, with your rights", remedy)
            continue
        try:
            walls = find_walls(wanted, reward.kwargs.get("packages", ()))
        except ArealError as error:
            yield problem("sandbox", str(error), "see docs/rewards.md")
            continue
        yield ok("sandbox", f"{walls.kind}, for the programs that code runs")
