"""What a run costs Redis does not grow with what it has done."""

import numpy as np
import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.config import BrokerConfig
from areal.broker.lane import Lane
from areal.broker.tickets import Tickets
from areal.broker.trajectory import NOT_AN_ACTION, Group, TokenTrajectory

from .samples import prompts

GROUPS, BATCH = 10_000, 50
VERSIONS = np.array([NOT_AN_ACTION] * 24 + [3] * 232, np.int32)


def group(prompt_id: int) -> Group:
    """4 trajectories of 256 tokens: about 8 KB."""
    rng = np.random.default_rng(prompt_id)
    tokens = rng.integers(0, 50_000, (4, 256), dtype=np.int32)
    logprobs = np.where(VERSIONS >= 0, -rng.random((4, 256)), 0).astype(np.float32)
    return Group(prompt_id, tuple(TokenTrajectory(tokens[i], VERSIONS, logprobs[i], 1.0) for i in range(4)), "w")


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_groups(client: Client, run: str) -> None:
    epoch = Bulletin(client, run).lead()
    lane, tickets = Lane(client, run, "train"), Tickets(client, run, "train", BrokerConfig())
    after, used = "0", []
    for first in range(0, GROUPS, BATCH):
        lane.issue(prompts(first, BATCH), after=first, epoch=epoch)
        for worker in ("a", "b"):
            leases = tickets.lease(worker, count=BATCH // 2, timeout_s=1)
            tickets.renew(worker, leases)
            for lease in leases:
                assert tickets.complete(lease, group(lease.prompt.id))
        deliveries, after = lane.take(after, count=BATCH, timeout_s=1)
        assert lane.acknowledge([delivery.receipt for delivery in deliveries], epoch=epoch) == BATCH
        used.append(int(client.info("memory")["used_memory"]))
    early, late = np.median(used[10:30]), np.median(used[-20:])
    assert late - early < 100_000, f"{early:.0f} bytes after 1,000 groups, {late:.0f} after {GROUPS}"
    assert lane.depth().issued == GROUPS and len(client.keys(f"*{{{run}}}*")) < 8  # type: ignore[arg-type]
