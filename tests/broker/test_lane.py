from collections.abc import Callable
from typing import Any

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.codec import encode_group, encode_prompt
from areal.broker.dead import DeadLetters
from areal.broker.errors import Fenced
from areal.broker.keys import Keys, LaneKeys
from areal.broker.lane import FETCH_BYTES, Depth, Lane, Listing, Receipt, _batches

from .samples import claims, group, lease, prompts, tickets_of


def lane_of(client: Client, run: str) -> Lane:
    return Lane(client, run, "train")


def complete(client: Client, run: str, *positions: int) -> None:
    """Complete these of the prompts that wait, in this order."""
    tickets = tickets_of(client, run, lease_s=60.0)
    leases = {each.prompt.id: each for each in lease(tickets, "w", len(positions))}
    for position in positions:
        assert tickets.complete(leases[position], group(position))


def add_group(client: Client, run: str, position: int, body: bytes | None, **fields: str | int) -> str:
    """A group's entry and bytes as no worker leaves them; returns its claim."""
    keys, claim = LaneKeys(run, "train"), f"claim-{position}"
    if body is not None:
        client.set(keys.body(claim), body)
    announced = {"id": position, "claim": claim, "size": len(body or b"")} | fields
    client.xadd(keys.groups, announced)  # type: ignore[arg-type]
    return claim


def test_positions_are_issued_once(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    assert lane.issue(prompts(0, 3), after=0, epoch=epoch) == 3
    assert lane.issue(prompts(0, 3), after=0, epoch=epoch) == 3, "a call that is repeated issues nothing"
    assert lane.issue(prompts(2, 3), after=2, epoch=epoch) == 3
    assert lane.issue(prompts(3, 2), after=3, epoch=epoch) == 5
    assert lane.issue([], after=5, epoch=epoch) == 5
    assert lane.depth() == Depth(issued=5, prompts=5, groups=0, dead=0, again=0, dropped=0)
    assert [each.prompt for each in lease(tickets_of(client, run), "a", 5)] == prompts(0, 5)


def test_nothing_is_issued_after_what_has_not_been(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    assert lane.issue(prompts(4, 2), after=4, epoch=epoch) == 0
    assert lane.depth() == Depth(0, 0, 0, 0)


def test_positions_may_be_passed_over(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    chosen = [*prompts(4, 2), *prompts(9, 1)]
    for _ in range(2):
        assert lane.issue(chosen, after=0, epoch=epoch) == 10
    assert lane.depth() == Depth(10, 3, 0, 0)
    assert lane.positions() == {4, 5, 9}
    assert lane.issue(prompts(12, 1), after=10, epoch=epoch) == 13
    assert [each.prompt for each in lease(tickets_of(client, run), "a", 4)] == [*chosen, *prompts(12, 1)]


def test_lost_positions_are_issued_again_unless_they_wait(client: Client, run: str, epoch: int) -> None:
    lane, tickets = lane_of(client, run), tickets_of(client, run, lease_s=60.0)
    lane.issue([*prompts(1, 1), *prompts(3, 2)], after=0, epoch=epoch)
    (held,) = lease(tickets, "a", 1)
    assert held.prompt.id == 1
    assert lane.reissue([], epoch=epoch) == 0
    for reissued in (2, 0):
        assert lane.reissue(prompts(0, 5), epoch=epoch) == reissued
    assert lane.depth() == Depth(5, 5, 0, 0)
    assert [each.prompt.id for each in lease(tickets, "a", 4)] == [3, 4, 0, 2]


def test_waiting_positions_are_found_among_many(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 600), after=0, epoch=epoch)
    assert lane.positions() == set(range(600))
    assert lane.reissue([*prompts(255, 3), *prompts(598, 3)], epoch=epoch) == 1
    assert lane.depth() == Depth(600, 601, 0, 0)


def test_an_earlier_learner_is_fenced(client: Client, run: str, epoch: int) -> None:
    lane, dead = lane_of(client, run), DeadLetters(client, run, "train")
    lane.issue(prompts(0, 2), after=0, epoch=epoch)
    complete(client, run, 0, 1)
    first, second = lane.take("0", count=2, timeout_s=1)[0]
    lane.reject(second.receipt, "bad", worker="w", epoch=epoch)
    assert dead.retry(dead.list()) == 1
    Bulletin(client, run).lead()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        lane.issue(prompts(2, 1), after=2, epoch=epoch)
    with pytest.raises(Fenced):
        lane.reissue(prompts(1, 1), epoch=epoch)
    with pytest.raises(Fenced):
        lane.resume(1, waiting=lane.depth().again, epoch=epoch)
    with pytest.raises(Fenced):
        lane.acknowledge([first.receipt], epoch=epoch)
    with pytest.raises(Fenced):
        lane.reject(first.receipt, "bad", worker="w", epoch=epoch)
    assert lane.depth() == Depth(2, 0, 1, 0, again=1)


def test_an_epoch_that_redis_has_forgotten_is_made_known_again(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    calls: list[Callable[[int], int]] = [
        lambda epoch: lane.issue(prompts(0, 2), after=lane.depth().issued, epoch=epoch),
        lambda epoch: lane.reissue(prompts(0, 2), epoch=epoch),
        lambda epoch: lane.resume(1, waiting=lane.depth().again, epoch=epoch),
        lambda epoch: lane.acknowledge([Receipt("0-1", 0, "", 0)], epoch=epoch),
    ]
    for call in calls:
        epoch += 10**6
        call(epoch)
        assert client.get(Keys(run).epoch) == str(epoch).encode()
        with pytest.raises(Fenced, match=f"epoch {epoch - 1} is over"):
            call(epoch - 1)
    client.delete(Keys(run).epoch)
    assert lane.reissue(prompts(5, 1), epoch=epoch) == 1
    assert Bulletin(client, run).lead(after=epoch) > epoch


def test_groups_come_in_order_until_acknowledged(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 4), after=0, epoch=epoch)
    complete(client, run, 3, 2, 1, 0)
    first, after = lane.take("0", count=3, timeout_s=1)
    rest, after = lane.take(after, count=3, timeout_s=1)
    assert [d.group.prompt_id for d in first + rest] == [3, 2, 1, 0]
    assert lane.take(after, count=3, timeout_s=0.02) == ([], after)
    receipts = [d.receipt for d in first + rest]
    assert lane.acknowledge([receipts[0], receipts[3]], epoch=epoch) == 2
    assert lane.acknowledge(receipts[:2], epoch=epoch) == 1
    assert lane.acknowledge([], epoch=epoch) == 0
    again, _ = lane.take("0", count=9, timeout_s=1)
    assert [d.group.prompt_id for d in again] == [1]
    assert lane.depth() == Depth(issued=4, prompts=0, groups=1, dead=0)
    assert claims(client, run, expiring=False) == [again[0].receipt.claim], "the bytes go with their entries"


def test_what_is_outstanding_is_listed(client: Client, run: str, epoch: int) -> None:
    lane, dead = lane_of(client, run), DeadLetters(client, run, "train")
    server = lane.listing().server
    assert lane.listing() == Listing(server, 0, 0, 0, 0, ())
    lane.issue(prompts(0, 6), after=0, epoch=epoch)
    complete(client, run, *range(6))
    lane.issue(prompts(8, 2), after=6, epoch=epoch)
    deliveries, _ = lane.take("0", count=6, timeout_s=1)
    for delivery in deliveries[2:5]:
        assert lane.reject(delivery.receipt, "bad", worker="w", epoch=epoch)
    letters = dead.list()
    assert dead.retry(letters[:1]) == dead.drop(letters[1:2]) == 1
    lane.acknowledge([deliveries[5].receipt], epoch=epoch)
    listing = lane.listing()
    assert listing == Listing(
        server, issued=10, prompts=2, again=1, dead=1, groups=tuple(d.receipt for d in deliveries[:2])
    )
    assert [receipt.position for receipt in listing.groups] == [0, 1]
    assert [receipt.size for receipt in listing.groups] == [len(encode_group(group(i))) for i in (0, 1)]
    assert lane.depth() == Depth(issued=10, prompts=2, groups=2, dead=1, again=1, dropped=1)
    assert lane.positions() == {0, 1, 2, 3, 4, 8, 9}, "all but what was acknowledged"


def test_a_listing_says_which_server_answered(client: Client, run: str) -> None:
    info: Any = client.info("server")
    assert lane_of(client, run).listing().server == lane_of(client, run + "-other").listing().server == info["run_id"]


def test_groups_are_fetched_by_their_receipts(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 3), after=0, epoch=epoch)
    complete(client, run, 0, 1, 2)
    receipts = lane.listing().groups
    assert [d.group.prompt_id for d in lane.fetch([receipts[2], receipts[0]])] == [2, 0]
    assert [d.receipt for d in lane.fetch(receipts)] == list(receipts)
    assert lane.fetch([]) == []
    lane.acknowledge([receipts[1]], epoch=epoch)
    assert [d.group.prompt_id for d in lane.fetch(receipts)] == [0, 2]
    assert lane.depth().dead == 0, "what was acknowledged meanwhile is no dead letter"


def test_a_reply_brings_so_many_bytes_and_no_more() -> None:
    def sizes(*given: int) -> list[list[int]]:
        receipts = [Receipt("0-1", 0, "", size) for size in given]
        return [[receipt.size for receipt in batch] for batch in _batches(receipts)]

    half = FETCH_BYTES // 2
    assert sizes() == []
    assert sizes(half, half, 1, 2) == [[half, half], [1, 2]]
    assert sizes(1, FETCH_BYTES + 1, 2, 3) == [[1], [FETCH_BYTES + 1], [2, 3]]
    assert sizes(-1, -1) == [[-1, -1]]


def test_groups_of_many_replies_come_in_order(
    client: Client, run: str, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 5), after=0, epoch=epoch)
    complete(client, run, 4, 1, 3, 0, 2)
    monkeypatch.setattr("areal.broker.lane.FETCH_BYTES", 2 * len(encode_group(group(0))))
    assert [d.group.prompt_id for d in lane.take("0", count=9, timeout_s=1)[0]] == [4, 1, 3, 0, 2]


@pytest.mark.parametrize(
    ("body", "fields", "cause"),
    [
        (None, {"size": 12}, "the 12 bytes of the group are gone"),
        (encode_group(group(7)), {"size": 12}, "a group of 12 bytes was announced, and"),
        (encode_group(group(7)), {"size": "many"}, "a group of -1 bytes was announced, and"),
        (encode_group(group(8)), {}, "a group of prompt 8 lies where one of prompt 7 was wanted"),
        (encode_group(group(7)), {"id": "seven"}, "a group of prompt 7 lies where one of prompt -1 was wanted"),
        (encode_prompt(prompts(7, 1)[0]), {}, "expected a group, got kind 1"),
        (b"\x80\x04nonsense not of ours", {}, "wire format 128"),
        (b"", {}, "a message of 0 bytes"),
    ],
    ids=["gone", "other size", "no size", "other prompt", "no position", "other kind", "nonsense", "empty"],
)
def test_a_group_that_is_not_what_its_entry_says_is_dead_lettered(
    client: Client, run: str, epoch: int, body: bytes | None, fields: dict[str, str | int], cause: str
) -> None:
    lane, dead = lane_of(client, run), DeadLetters(client, run, "train")
    claim = add_group(client, run, 7, body, **fields)
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    complete(client, run, 0)
    deliveries, after = lane.take("0", count=4, timeout_s=1)
    assert [d.group.prompt_id for d in deliveries] == [0] and after == deliveries[0].receipt.entry
    (letter,) = dead.list()
    assert letter.cause.startswith(cause)
    assert (letter.source, letter.claim) == ("groups", claim)
    assert letter.position == (-1 if fields.get("id") else 7)
    assert dead.payload(letter) == (body or b"")
    assert lane.depth().groups == 1


def test_an_entry_that_says_nothing_is_dead_lettered(client: Client, run: str) -> None:
    lane, keys = lane_of(client, run), LaneKeys(run, "train")
    for fields in ({"other": "x"}, {"id": "1" * 40, "size": "9" * 40}, {"claim": b"\xff\xfe", "size": "0"}):
        client.xadd(keys.groups, fields)  # type: ignore[arg-type]
    assert lane.take("0", count=9, timeout_s=1)[0] == []
    letters = DeadLetters(client, run, "train").list()
    assert [letter.position for letter in letters] == [-1, -1, -1]
    assert lane.depth() == Depth(0, 0, 0, 3)


def test_a_rejected_group_is_a_dead_letter_once(client: Client, run: str, epoch: int) -> None:
    lane, dead = lane_of(client, run), DeadLetters(client, run, "train")
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    complete(client, run, 0)
    ((delivery,), _) = lane.take("0", count=1, timeout_s=1)
    assert [
        lane.reject(delivery.receipt, "the loss is nan", worker="w", epoch=epoch),
        lane.reject(delivery.receipt, "again", worker="w", epoch=epoch),
    ] == [
        True,
        False,
    ]
    (letter,) = dead.list()
    assert (letter.position, letter.cause, letter.worker) == (0, "the loss is nan", "w")
    assert dead.payload(letter) == encode_group(group(0))
    assert lane.acknowledge([delivery.receipt], epoch=epoch) == 0
    assert claims(client, run, expiring=False) == [delivery.receipt.claim], "what is dead keeps its bytes"


def test_a_position_that_is_issued_again_is_so_once_whatever_became_of_it(client: Client, run: str, epoch: int) -> None:
    """The call is repeated after a lost reply, when the prompt has been answered already."""
    lane = lane_of(client, run)
    assert lane.reissue(prompts(0, 1), epoch=epoch) == 1
    complete(client, run, 0)
    assert lane.reissue(prompts(0, 1), epoch=epoch) == 0
    assert (lane.depth().prompts, lane.depth().groups) == (0, 1)
