"""The bound of AReaL, whatever the order of completion and training."""

import uuid

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from areal.broker.client import Client

from .test_source import Rows, Stage, group


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3),
    max_staleness=st.integers(0, 3),
    moves=st.lists(st.tuples(st.sampled_from(["complete", "train", "acknowledge"]), st.integers(1, 4)), max_size=20),
)
def test_no_more_is_outstanding_than_allowed(
    client: Client, batch: int, max_staleness: int, moves: list[tuple[str, int]]
) -> None:
    stage = Stage(client, uuid.uuid4().hex)
    source = stage.source()
    rows = Rows(stage, source, max_outstanding=(max_staleness + 1) * batch)
    completed = trained = steps = 0
    for move, count in moves:
        rows.top_up()
        depth = stage.lane.depth()
        assert depth.issued - trained == (max_staleness + 1) * batch
        assert depth.issued <= (steps + max_staleness + 1) * batch
        if move == "complete":
            for lease in stage.lane.lease("w", count=count, timeout_s=0):
                stage.lane.complete(lease, group(lease.prompt.id))
                completed += 1
        elif move == "train" and completed - trained >= batch:
            source.settle(source.take(batch, timeout_s=5, idle=lambda: False))
            trained += batch
            steps += 1
        elif move == "acknowledge":
            source.acknowledge(source.settled())
    source._closed = True
