"""Has Ray keep places for companies of roles: a placement group for each, with a bundle for each role.

company ─ group ─┬─ bundle ─ learner        one group for all ranks, which lie as cluster.strategy says
                 └─ bundle ─ learner-1
company ─ group ─── bundle ─ rollout-0      on other nodes than the learner, or on the same, as cluster.affinity says
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...broker.errors import ConfigError
from ..cluster_config import ClusterConfig
from ..roles import LEARNER, ROLLOUT
from .company import Company
from .demand import needs_of, wanted_of
from .fit import GPU, Capacity, Wanted, learner_nodes
from .gpus import GpuShares
from .misfit import no_meeting, told_nodes, told_wanted, why_not

NODE_ID = "ray.io/node-id"
"""Ray's own label of a node."""


class Placement:
    """Where the companies of a run go. `needs` tells what a role takes, by its kind."""

    def __init__(self, ray: Any, config: ClusterConfig, shares: GpuShares) -> None:
        self._ray = ray
        self._config = config
        self.needs = needs_of(config, shares)

    def check(self, companies: Sequence[Company], beside: Mapping[str, float]) -> None:
        """Raises ConfigError, saying what to change, if the roles and what they place beside never fit on the nodes, or ranks
        there would not meet."""
        nodes, wanted = self.nodes(), self._wanted(companies)
        alone = no_meeting(nodes, wanted)
        if alone is not None:
            raise ConfigError(alone)
        if self._config.grows:
            return
        reason = why_not(nodes, wanted, beside)
        if reason is not None:
            raise ConfigError(
                f"the cluster cannot hold this run: {reason}. Wanted are {told_wanted(wanted)}; there "
                f"{told_nodes(nodes)}. If nodes join when they are wanted, set cluster.grows to true"
            )

    def ask(self, company: Company, companies: Sequence[Company]) -> bool:
        """Have Ray look for places and start actors there; False if it has to be known first where the learner is."""
        selector = self._selector(company, companies)
        if selector is None:
            return False
        bundles = [dict(self.needs[placed.spec.role].resources) for placed in company.members]
        strategy = self._config.strategy.upper() if len(bundles) > 1 else "PACK"
        labels = {"bundle_label_selector": [selector] * len(bundles)} if selector else {}
        company.group = self._ray.util.placement_group(bundles, strategy=strategy, **labels)
        company.room = company.group.ready()
        return True

    def options(self, company: Company, index: int) -> dict[str, Any]:
        """Of the actor of a member."""
        resources = dict(self.needs[company.members[index].spec.role].resources)
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        return {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop(GPU, 0),
            "resources": resources,
            "scheduling_strategy": strategy(company.group, index),
        }

    def give_back(self, company: Company) -> None:
        """Leave the places of a company to others; whatever still runs there is ended."""
        group, company.group, company.room = company.group, None, None
        if group is not None:
            self._ray.util.remove_placement_group(group)

    def nodes(self) -> list[Capacity]:
        """Those that are alive."""
        return [
            Capacity(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
            for node in self._ray.nodes()
            if node["Alive"]
        ]

    def is_alive(self, node: str) -> bool:
        return any(each.id == node for each in self.nodes())

    def _selector(self, company: Company, companies: Sequence[Company]) -> dict[str, str] | None:
        """The label that the company's nodes have to have, none if any will do; None if that is not known yet."""
        affinity = self._config.affinity
        if affinity == "any" or self._config.address is None:
            return {}
        if company.leader.spec.role == LEARNER:
            return self._selector_of_learner(companies)
        learner = next(each for each in companies if each.leader.spec.role == LEARNER)
        seats = [placed.seat.node for placed in learner.members if placed.seat is not None]
        alive = {node.id for node in self.nodes()}
        if len(seats) < len(learner.members) or not alive.issuperset(seats) or learner.restart_at is not None:
            return None
        return _on(seats, apart=affinity == "apart")

    def _selector_of_learner(self, companies: Sequence[Company]) -> dict[str, str]:
        """Nodes that leave room for the workers where they may be; if none do, at least not those of workers to be apart from."""
        taken = set[str]()
        if self._config.affinity == "apart":
            workers = [placed for each in companies for placed in each.running() if placed.spec.role == ROLLOUT]
            taken = {placed.seat.node for placed in workers if placed.seat is not None}
        found = learner_nodes(self.nodes(), self._wanted(companies), taken=taken)
        if found:
            return _on(sorted(found))
        return _on(sorted(taken), apart=True) if taken else {}

    def _wanted(self, companies: Sequence[Company]) -> Wanted:
        roles = [placed.spec.role for company in companies for placed in company.members]
        ranks, workers = roles.count(LEARNER), roles.count(ROLLOUT)
        return wanted_of(self._config, self.needs, ranks=ranks, workers=workers)


def _on(nodes: Sequence[str], *, apart: bool = False) -> dict[str, str]:
    return {NODE_ID: f"{'!' if apart else ''}in({','.join(dict.fromkeys(nodes))})"}
