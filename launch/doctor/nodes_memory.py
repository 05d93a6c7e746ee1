"""The memory of a cluster's nodes and of their GPUs, against the roles that may come to lie there. Ray counts neither."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from ..cluster.fit import GPU, Wanted, learner_nodes
from ..cluster.fit import Need as Taken
from ..cluster.gpus import GpuShares
from ..config import RunConfig
from ..units import gib
from .finding import Finding, ok, problem, warning
from .memory import FULL, RAY_PROCESSES, SMALLER, Need, look_at_engine_on, look_at_learner_on, of_rank, of_worker
from .seats import Seats

MEMORY = "areal-memory"
"""As if Ray counted it."""

SPREAD = "have fewer fit on it (cluster.resources, cluster.strategy, cluster.affinity)"
ELSEWHERE = "keep such roles off it by cluster.resources (custom ones that other nodes have)"


def look_at_their_gpus(config: RunConfig, need: Need, seats: Sequence[Seats], shares: GpuShares) -> Iterator[Finding]:
    """The GPUs that an engine and a rank may get."""
    for node in (each.node for each in seats if each.node.resources.get(GPU) and not each.node.gpu_mib):
        why = f": nvidia-smi is there, and tells {node.gpu_error}" if node.gpu_error else ""
        yield warning("gpu memory", f"that of {node.called} is not known{why}", "see nvidia-smi there")
    if shares.rollout:
        look: Callable[[float], Finding] = partial(look_at_engine_on, config, need)
        yield from _by_size(look, [each for each in seats if each.for_workers])
    if shares.learner:
        look = partial(look_at_learner_on, config, need, shares=shares)
        yield from _by_size(look, [each for each in seats if each.for_ranks])


def _by_size(look: Callable[[float], Finding], seats: Sequence[Seats]) -> Iterator[Finding]:
    """What is found of the largest GPUs; where that is well, also of smaller ones, as Ray does not tell them apart."""
    sizes = sorted((min(each.node.gpu_mib) * 2**20, each.node.called) for each in seats if each.node.gpu_mib)
    if not sizes:
        return
    best = look(sizes[-1][0])
    yield best
    small = [name for size, name in sizes if look(size).level == "problem"]
    if small and best.level != "problem":
        worst = look(sizes[0][0])
        yield warning("gpu memory", f"on {', '.join(small)}: {worst.seen}", f"{worst.remedy}; or {ELSEWHERE}")


def look_at_their_memory(need: Need, seats: Sequence[Seats], wanted: Wanted, shares: GpuShares) -> Iterator[Finding]:
    """Whether the roles can lie so that each node's memory is enough, and whether it is however Ray places them."""
    rank, worker = of_rank(need, on_gpu=shares.learner > 0), of_worker(need, on_gpu=shares.rollout > 0)
    unknown = [each.node.called for each in seats if not each.node.memory]
    if unknown:
        yield warning("memory", f"that of {', '.join(unknown)} is not known", "install there the areal that is here")
    known = [each for each in seats if each.node.memory]
    told = f"a rank wants about {gib(rank)}, a rollout worker {gib(worker)}"
    if not unknown and not _can_lie(known, wanted, rank, worker):
        has = ", ".join(f"{each.node.called} {gib(each.node.memory)}" for each in known)
        yield problem("memory", f"the roles find no places with memory for them: {told}, and there: {has}", SMALLER)
    elif known:
        yield _worst(known, rank, worker, told)


def _can_lie(seats: Sequence[Seats], wanted: Wanted, rank: float, worker: float) -> bool:
    """Whether there are places with memory for all roles, if there are any for them."""
    places = [each.node.place for each in seats]
    if learner_nodes(places, wanted) is None:  # which is told elsewhere
        return True
    hungry = replace(
        wanted,
        rank=Taken({**wanted.rank.resources, MEMORY: rank}),
        worker=Taken({**wanted.worker.resources, MEMORY: worker}),
    )
    roomy = [
        replace(each.node.place, total={**each.node.resources, MEMORY: each.node.memory - RAY_PROCESSES})
        for each in seats
    ]
    return learner_nodes(roomy, hungry) is not None


def _worst(seats: Sequence[Seats], rank: float, worker: float, told: str) -> Finding:
    """What may come of it on the nodes that may be asked for the most of what they have, and of what is free there."""
    loads = {each.node.id: _load(each, rank, worker) for each in seats}
    fullest = max((each.node for each in seats), key=lambda node: loads[node.id] / node.memory)
    busiest = max((each.node for each in seats), key=lambda node: loads[node.id] / max(1, node.memory_free))
    if loads[fullest.id] > fullest.memory:
        seen = f"Ray counts none, and may bring {gib(loads[fullest.id])} of roles to {fullest.called}, which has {gib(fullest.memory)}: {told}"
        return warning("memory", seen, f"{SPREAD}; or {SMALLER}")
    if loads[busiest.id] > FULL * busiest.memory_free:
        seen = f"up to {gib(loads[busiest.id])} of roles may come to {busiest.called}, of which {gib(busiest.memory_free)} are free: {told}"
        return warning("memory", seen, f"end what else runs there; {SPREAD}; or {SMALLER}")
    return ok("memory", f"{told}; most may come to {fullest.called}, {gib(loads[fullest.id])} of {gib(fullest.memory)}")


def _load(seats: Seats, rank: float, worker: float) -> float:
    ranks, workers = seats.heaviest(rank, worker)
    return ranks * rank + workers * worker + RAY_PROCESSES
