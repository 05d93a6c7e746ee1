"""Why the roles of a run never fit on the nodes of a cluster, in words that say what to change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..roles import LEARNER, ROLLOUT
from .fit import SLACK, Capacity, Need, Wanted, learner_nodes, room, told_resources

FEWER = "lower learner.ranks, rollout.workers or cluster.resources, or add nodes"


def why_not(nodes: Sequence[Capacity], wanted: Wanted, beside: Mapping[str, float]) -> str | None:
    """The reason, with the key to change; None if they fit. `beside` is what rewards take of the cluster."""
    return (
        _no_node_for(nodes, LEARNER, wanted.rank)
        or _no_node_for(nodes, ROLLOUT, wanted.worker)
        or _too_little(nodes, wanted, beside)
        or _no_arrangement(nodes, wanted)
    )


def no_meeting(nodes: Sequence[Capacity], wanted: Wanted) -> str | None:
    """Why ranks on these nodes would not meet, with what to do about it; None if nothing is against it."""
    hosts = sorted({node.host for node in nodes})
    alone = [host for host in hosts if host == "::1" or host.startswith("127.")]
    if wanted.ranks == 1 or not alone or len(hosts) == 1:
        return None
    return (
        f"the Ray cluster has the nodes {', '.join(hosts)}, and to others {alone[0]} is their own loopback: ranks "
        f"there and elsewhere would not meet (learner.ranks is {wanted.ranks}). Start that node with "
        "ray start --node-ip-address and an address that the others reach, or set learner.ranks to 1"
    )


def told_wanted(wanted: Wanted) -> str:
    """All roles, with what they take."""
    rank, worker = told_resources(wanted.rank.resources), told_resources(wanted.worker.resources)
    return f"{wanted.ranks} learner rank(s) of {rank} each and {wanted.workers} rollout worker(s) of {worker} each"


def told_nodes(nodes: Sequence[Capacity], most: int = 8) -> str:
    """Nodes, with what they have."""
    shown = "; ".join(f"{node.host} has {told_resources(node.total)}" for node in nodes[:most])
    return f"{shown}; and {len(nodes) - most} more" if len(nodes) > most else shown or "is no node"


def _no_node_for(nodes: Sequence[Capacity], role: str, need: Need) -> str | None:
    if any(room(node.total, need) for node in nodes):
        return None
    lacking = {
        name: each
        for name, each in need.resources.items()
        if not any(node.total.get(name, 0.0) + SLACK >= each for node in nodes)
    }
    what = told_resources(lacking) if lacking else f"{told_resources(need.resources)} at once"
    return f"no node has {what}, which cluster.resources.{role} wants"


def _too_little(nodes: Sequence[Capacity], wanted: Wanted, beside: Mapping[str, float]) -> str | None:
    """What there is not enough of on all nodes together."""
    rank, worker = wanted.rank.resources, wanted.worker.resources
    for name in {**rank, **worker, **beside}:
        roles = wanted.ranks * rank.get(name, 0.0) + wanted.workers * worker.get(name, 0.0)
        there = sum(node.total.get(name, 0.0) for node in nodes)
        if roles + beside.get(name, 0.0) > there + SLACK:
            rewards = f" and {beside[name]:g} for rewards (rewards.resources)" if beside.get(name) else ""
            return f"it wants {roles:g} {name} for its roles{rewards}, and the nodes have {there:g} together; {FEWER}"
    return None


def _no_arrangement(nodes: Sequence[Capacity], wanted: Wanted) -> str | None:
    """Which wish about who is where has to go."""
    if learner_nodes(nodes, wanted) is not None:
        return None
    if learner_nodes(nodes, replace(wanted, affinity="any")) is not None:
        return f"its roles do not fit with cluster.affinity {wanted.affinity}, but with any they would"
    if learner_nodes(nodes, replace(wanted, strategy="pack")) is not None:
        return f"its roles do not fit with cluster.strategy {wanted.strategy}, but with pack they would"
    return f"its roles do not fit; {FEWER}"
