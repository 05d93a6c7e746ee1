"""The GPUs of this machine, and whether there are as many as a configuration wants."""

from collections import Counter
from collections.abc import Iterator, Sequence

from ...broker.errors import ConfigError
from ..cluster.beside import beside_all, most_workers
from ..cluster.fit import SLACK
from ..cluster.gpus import GpuShares, shares
from ..cluster.nvidia import Gpu, Gpus
from ..config import RunConfig
from .cuda import Torch, ask_torch
from .finding import Finding, ok, problem, warning

BUSY = 0.1
"""A GPU of which more is taken is somebody's."""


def look_at_gpus(gpus: Gpus) -> Iterator[Finding]:
    """Which there are, and whether torch can use them; it is asked only where there are some."""
    found = gpus.found
    if gpus.error:
        remedy = "mend the driver (a restart, where it was renewed), or take nvidia-smi away where there is no GPU"
        yield warning("gpus", f"nvidia-smi is there and tells of none: {gpus.error}", remedy)
        return
    if not found:
        yield ok("gpus", "none: everything runs on the CPU")
        return
    names = ", ".join(
        f"{count} × {name} ({mib:,} MiB)"
        for (name, mib), count in Counter((gpu.name, gpu.memory_mib) for gpu in found).items()
    )
    yield ok("gpus", f"{names}, driver {found[0].driver}")
    yield _torch(ask_torch(), found)
    busy = [gpu for gpu in found if gpu.used_mib > BUSY * gpu.memory_mib]
    if busy:
        yield warning(
            "gpus",
            f"{len(busy)} of {len(found)} are in use already ({max(gpu.used_mib for gpu in busy):,} MiB)",
            "see nvidia-smi for who it is; vLLM does not start where less is free than it is to take",
        )


def _torch(torch: Torch, gpus: Sequence[Gpu]) -> Finding:
    """Whether it can use these."""
    if not torch.version:
        seen = f"torch was asked whether it can use them: {torch.error}"
        return problem("torch", seen, "see that python -c 'import torch; torch.cuda.init()' ends well, and soon")
    if not torch.cuda:
        seen = f"{torch.version} is built without CUDA, and would not use them"
        return problem("torch", seen, "pip install 'areal-rl[gpu]'")
    if not torch.usable:
        seen = f"{torch.version} (CUDA {torch.cuda}) cannot use them: {torch.error or 'it sees none'}"
        remedy = (
            f"install a driver for CUDA {torch.cuda} or later, or a torch that is built for driver {gpus[0].driver}"
        )
        return problem("torch", seen, remedy)
    seen = f"{torch.version} (CUDA {torch.cuda}) can use {torch.usable} of {len(gpus)}"
    if torch.usable < len(gpus):
        return warning("torch", seen, "see nvidia-smi and CUDA_VISIBLE_DEVICES for the others")
    return ok("torch", seen)


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
    rewards = beside_all(config).gpus
    taken = config.learner.ranks * dealt.learner + config.rollout.workers * dealt.rollout + rewards
    if taken <= gpus + SLACK:
        yield ok("gpu shares", f"of {gpus}: {told}")
    elif config.cluster.address is None:  # else whether roles fit on its nodes is told, whatever they want
        beside = f", {rewards:g} for rewards" if rewards else ""
        yield problem(
            "gpu shares",
            f"{told}{beside}: {taken:.3g} in all, and there are {gpus}",
            "lower cluster.resources, learner.ranks or rollout.workers, or take more GPUs",
        )


def shares_of(config: RunConfig, gpus: int) -> GpuShares:
    """What each role would get of so many GPUs. Raises ConfigError if there are too few."""
    given = config.cluster.resources
    return shares(
        gpus,
        ranks=config.learner.ranks,
        workers=most_workers(config),
        per_engine=config.rollout.engine.tensor_parallel_size,
        beside=beside_all(config).gpus,
        given=(given.learner.gpus, given.rollout.gpus),
    )
