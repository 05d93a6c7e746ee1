"""Whether the ranks of a learner would reach each other on the nodes of a cluster."""

from collections.abc import Sequence

from .finding import Finding, ok, problem, warning
from .seats import Seats

SHOWN = 3


def look_at_ways(seats: Sequence[Seats]) -> Finding:
    """The ways between nodes on which ranks may lie, as they were tried."""
    nodes = {each.node.id: each.node for each in seats if each.for_ranks}
    silent = [node.called for node in nodes.values() if node.cut_off is None]
    closed = [
        f"{node.host} does not reach {nodes[other].host} ({why})"
        for node in nodes.values()
        for other, why in (node.cut_off or {}).items()
        if other in nodes
    ]
    if closed:
        more = f", and {len(closed) - SHOWN} ways more" if len(closed) > SHOWN else ""
        remedy = (
            "open all ports between them (ranks listen where the system says), or set cluster.strategy to strict_pack"
        )
        return problem("ways", f"ranks may lie on both, and {', '.join(closed[:SHOWN])}{more}", remedy)
    if silent:
        seen = f"{', '.join(silent)} did not say whether it reaches the others, as ranks there would have to"
        return warning("ways", seen, "look again, or see the logs of Ray there")
    return ok("ways", f"the {len(nodes)} nodes on which ranks may lie reach each other by TCP")
