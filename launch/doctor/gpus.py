"""The GPUs of this machine, and whether there are as many as a configuration wants."""

import importlib.metadata
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ...broker.errors import ConfigError
from ..cluster.fit import SLACK
from ..cluster.gpus import GpuShares, shares
from ..config import RunConfig
from .finding import Finding, ok, problem, warning

QUERY = ["--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"]
QUERY_TIMEOUT_S = 10.0
BUSY = 0.1
"""A GPU of which more is taken is somebody's."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, its memory in MiB."""

    name: str
    memory_mib: int
    used_mib: int
    driver: str


def find_gpus() -> list[Gpu]:
    """What nvidia-smi tells, and CUDA_VISIBLE_DEVICES lets be seen; none where there is no nvidia-smi, or it fails."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return _visible([gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None])


def look_at_gpus(gpus: list[Gpu]) -> Iterator[Finding]:
    """Which there are, and whether torch can use them."""
    if not gpus:
        yield ok("gpus", "none: everything runs on the CPU")
        return
    names = ", ".join(
        f"{count} × {name} ({mib:,} MiB)"
        for (name, mib), count in Counter((gpu.name, gpu.memory_mib) for gpu in gpus).items()
    )
    yield ok("gpus", f"{names}, driver {gpus[0].driver}")
    built = importlib.metadata.version("torch")
    if "cpu" in built:
        yield problem(
            "gpus", f"torch {built} is built without CUDA, and would not use them", "pip install 'areal-rl[gpu]'"
        )
    busy = [gpu for gpu in gpus if gpu.used_mib > BUSY * gpu.memory_mib]
    if busy:
        yield warning(
            "gpus",
            f"{len(busy)} of {len(gpus)} are in use already ({max(gpu.used_mib for gpu in busy):,} MiB)",
            "see nvidia-smi for who it is; vLLM does not start where less is free than it is to take",
        )


def look_at_shares(config: RunConfig, gpus: int) -> Iterator[Finding]:
    """Whether so many GPUs are enough for the ranks, the engines and the rewards."""
    per_engine, given = config.rollout.engine.tensor_parallel_size, config.cluster.resources
    wanted = f"learner.ranks {config.learner.ranks}, rollout.workers {config.rollout.workers} × tensor_parallel_size {per_engine}"
    if not gpus and not given.learner.gpus and not given.rollout.gpus:
        if per_engine > 1:
            yield problem(
                "gpu shares", f"there are no GPUs, and {wanted}", "set rollout.engine.tensor_parallel_size to 1"
            )
        return
    try:
        dealt = shares_of(config, gpus)
    except ConfigError as error:
        yield problem("gpu shares", str(error), "lower what is named, or take more GPUs")
        return
    told = f"{dealt.learner:.3g} for a rank, {dealt.rollout:.3g} for an engine ({wanted})"
    taken = config.learner.ranks * dealt.learner + config.rollout.workers * dealt.rollout + _of_rewards(config)
    if taken > gpus + SLACK:
        beside = f", {_of_rewards(config):g} for rewards" if _of_rewards(config) else ""
        yield problem(
            "gpu shares",
            f"{told}{beside}: {taken:.3g} in all, and there are {gpus}",
            "lower cluster.resources, learner.ranks or rollout.workers, or take more GPUs",
        )
        return
    yield ok("gpu shares", f"of {gpus}: {told}")


def shares_of(config: RunConfig, gpus: int) -> GpuShares:
    """What each role would get of so many GPUs. Raises ConfigError if there are too few."""
    given = config.cluster.resources
    return shares(
        gpus,
        ranks=config.learner.ranks,
        workers=config.rollout.workers,
        per_engine=config.rollout.engine.tensor_parallel_size,
        beside=_of_rewards(config),
        given=(given.learner.gpus, given.rollout.gpus),
    )


def _of_rewards(config: RunConfig) -> float:
    rewards = config.rewards
    return rewards.workers * config.rollout.workers * rewards.resources.gpus if rewards.where == "ray" else 0.0


def _gpu(line: str) -> Gpu | None:
    try:
        name, total, used, driver = (part.strip() for part in line.split(","))
        return Gpu(name, int(total), int(used), driver)
    except ValueError:
        return None


def _visible(gpus: list[Gpu]) -> list[Gpu]:
    """Those whose numbers CUDA_VISIBLE_DEVICES names; of other kinds of names, as many as there are."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return gpus
    names = [name.strip() for name in said.split(",") if name.strip() not in ("", "-1")]
    if all(name.isdigit() for name in names):
        return [gpus[int(name)] for name in names if int(name) < len(gpus)]
    return gpus[: len(names)]
