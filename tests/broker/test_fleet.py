import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from areal.broker.bulletin import DRAIN, LEAVE, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.errors import CodecError
from areal.broker.fleet import MAX_BYTES, MAX_WORKERS, ORDER_S, WISH_S, Fleet, Roster, Wish
from areal.broker.keys import Keys

WORKERS = ("rollout-0", "rollout-1", "rollout-2")


def orders(client: Client, run: str) -> list[str]:
    return [Bulletin(client, run).ordered_of(worker) for worker in WORKERS]


def test_one_worker_is_told_to_leave_and_the_others_stay(client: Client, run: str) -> None:
    fleet = Fleet(client, run)
    fleet.keep_orders({})
    assert orders(client, run) == [RUN, RUN, RUN]
    fleet.keep_orders({"rollout-0": RUN, "rollout-1": LEAVE})
    assert orders(client, run) == [RUN, LEAVE, RUN]
    fleet.keep_orders({"rollout-1": DRAIN, "rollout-2": LEAVE})
    assert orders(client, run) == [RUN, DRAIN, LEAVE]
    assert Bulletin(client, run).ordered() == RUN, "the learner goes on"
    Bulletin(client, run).keep_order(DRAIN)
    assert orders(client, run) == [DRAIN, DRAIN, DRAIN]
    assert [Bulletin(client, run + "-other").ordered_of(worker) for worker in WORKERS] == [RUN, RUN, RUN]


def test_orders_are_said_again_to_a_redis_that_came_back_older(client: Client, run: str) -> None:
    fleet, words = Fleet(client, run), {"rollout-0": RUN, "rollout-1": LEAVE}
    fleet.keep_orders(words)
    client.delete(Keys(run).leave("rollout-1"))
    client.set(Keys(run).leave("rollout-0"), DRAIN)
    fleet.keep_orders(words)
    assert orders(client, run) == [RUN, LEAVE, RUN]
    assert not client.exists(Keys(run).leave("rollout-0"))


def test_orders_that_nobody_gives_any_more_are_forgotten(client: Client, run: str) -> None:
    fleet, key = Fleet(client, run), Keys(run).leave("rollout-1")
    for word in (LEAVE, DRAIN):
        fleet.keep_orders({"rollout-1": word})
        assert 0 < client.ttl(key) <= ORDER_S  # type: ignore[operator]
        client.expire(key, 5)
        fleet.keep_orders({"rollout-1": word})
        assert client.ttl(key) > 5, "it is given again"  # type: ignore[operator]
    client.pexpire(key, 1)
    while client.exists(key):
        pass
    assert orders(client, run)[1] == RUN


def test_a_wish_that_nobody_repeats_is_forgotten(client: Client, run: str) -> None:
    fleet, wish, key = Fleet(client, run), Wish(3), Keys(run).wish
    fleet.wish(wish)
    assert 0 < client.ttl(key) <= WISH_S  # type: ignore[operator]
    client.expire(key, 5)
    fleet.wish(wish)
    assert client.ttl(key) > 5  # type: ignore[operator]


def test_a_wish_stands_until_it_is_withdrawn(client: Client, run: str) -> None:
    fleet = Fleet(client, run)
    assert fleet.wished() is None
    first, second = Wish(3), Wish(3)
    assert first.id != second.id
    fleet.wish(first)
    fleet.wish(second)
    fleet.forget_wish(first)
    assert fleet.wished() == second, "somebody else's is not withdrawn"
    fleet.forget_wish(second)
    assert fleet.wished() is None
    fleet.wish(first)
    fleet.forget_wish()
    assert fleet.wished() is None


def test_a_roster_and_an_offer_are_read_as_they_were_said(client: Client, run: str) -> None:
    fleet = Fleet(client, run)
    assert fleet.roster() is None and fleet.offer() is None
    roster = Roster(2, ("rollout-0", "rollout-3"), ("rollout-2",), "id", "no room")
    for _ in range(2):
        fleet.keep_roster(roster)
        fleet.keep_offer(b"{}")
        assert fleet.roster() == roster and fleet.offer() == b"{}"
        client.delete(Keys(run).fleet, Keys(run).offer)


ODD: list[Any] = [
    b"{",
    b"\xff",
    b"[1]",
    b"3",
    b"null",
    b"[" * 100_000,
    {"count": 0, "id": "a"},
    {"count": MAX_WORKERS + 1, "id": "a"},
    {"count": True, "id": "a"},
    {"count": 1e300, "id": "a"},
    {"count": 3},
    {"count": 3, "id": "a" * 65},
    {"count": 3, "id": ["a"]},
]


@pytest.mark.parametrize("said", ODD)
def test_a_wish_that_is_none_is_passed_over(
    client: Client, run: str, said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(Keys(run).wish, said if isinstance(said, bytes) else json.dumps(said))
    with caplog.at_level(logging.WARNING):
        assert Fleet(client, run).wished() is None
    assert len(caplog.messages) == 1 and "is passed over" in caplog.text


def test_what_is_too_long_is_not_read(client: Client, run: str) -> None:
    client.set(Keys(run).offer, b" " * (MAX_BYTES + 1))
    with pytest.raises(CodecError, match=f"more than {MAX_BYTES} bytes"):
        Fleet(client, run).offer()
    client.set(Keys(run).fleet, b" " * (MAX_BYTES + 1))
    assert Fleet(client, run).roster() is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["count", "workers", "leaving", "wish", "trouble", "id"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.dictionaries(FIELDS, VALUES))
def test_a_roster_of_anything_is_a_roster_or_none(client: Client, run: str, said: dict[str, Any]) -> None:
    client.set(Keys(run).fleet, json.dumps(said))
    roster = Fleet(client, run).roster()
    assert roster is None or (
        isinstance(roster.count, int) and all(isinstance(name, str) for name in (*roster.workers, *roster.leaving))
    )
