import time
import uuid

import numpy as np
import pytest
import redis

from areal.broker import scripts
from areal.broker.client import Client
from areal.broker.codec import encode_prompt
from areal.broker.dead import DeadLetters
from areal.broker.keys import LaneKeys
from areal.broker.lane import Depth, Lane
from areal.broker.tickets import BODY_EXPIRES_S, Lease
from areal.broker.trajectory import DenoisingTrajectory, Group

from .samples import LEASE_S, claims, group, lease, prompts, tickets_of


@pytest.fixture
def lane(client: Client, run: str) -> Lane:
    return Lane(client, run, "train")


@pytest.fixture
def dead(client: Client, run: str) -> DeadLetters:
    return DeadLetters(client, run, "train")


def issue(lane: Lane, count: int, epoch: int) -> None:
    assert lane.issue(prompts(0, count), after=0, epoch=epoch) == count


def claimed(lane: Lane) -> list[str]:
    return sorted(receipt.claim for receipt in lane.listing().groups)


def test_a_lease_is_exclusive_while_renewed(client: Client, run: str, epoch: int, lane: Lane) -> None:
    one, other = tickets_of(client, run), tickets_of(client, run)
    issue(lane, 2, epoch)
    held = lease(one, "a", 2)
    deadline = time.monotonic() + 4 * LEASE_S
    while time.monotonic() < deadline:
        assert one.renew("a", held) == set()
        assert other.lease("b", count=2, timeout_s=0.03) == []
        other._reclaimed_at = 0.0
    assert one.renew("a", []) == set()


def test_an_expired_lease_moves_and_its_zombie_changes_nothing(
    client: Client, run: str, epoch: int, lane: Lane
) -> None:
    one, other = tickets_of(client, run), tickets_of(client, run)
    issue(lane, 1, epoch)
    (first,) = lease(one, "a", 1)
    time.sleep(1.5 * LEASE_S)
    (second,) = lease(other, "b", 1)
    assert (first.attempt, second.attempt, second.entry) == (1, 2, first.entry)
    assert one.renew("a", [first]) == {first.entry}
    assert other.complete(second, group(0, reward=2.0))
    assert not one.complete(first, group(0, reward=1.0))
    one.release("a", first)
    assert one.fail("a", first, "late")
    deliveries, _ = lane.take("0", count=10, timeout_s=1)
    assert [d.group.trajectories[0].reward for d in deliveries] == [2.0]
    assert lane.depth() == Depth(1, 0, 1, 0)
    assert claims(client, run, expiring=False) == claimed(lane) == [deliveries[0].receipt.claim]
    assert claims(client, run, expiring=True) == [], "the zombie leaves no bytes behind"


def test_the_zombie_may_be_the_first_to_complete(client: Client, run: str, epoch: int, lane: Lane) -> None:
    one, other = tickets_of(client, run), tickets_of(client, run)
    issue(lane, 1, epoch)
    (first,) = lease(one, "a", 1)
    time.sleep(1.5 * LEASE_S)
    (second,) = lease(other, "b", 1)
    assert one.complete(first, group(0))
    assert not other.complete(second, group(0))
    assert other.renew("b", [second]) == {second.entry}
    assert lane.depth() == Depth(1, 0, 1, 0)
    assert claims(client, run, expiring=False) == claimed(lane)


def test_an_expired_lease_is_found_behind_many_that_live(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets = tickets_of(client, run)
    issue(lane, 40, epoch)
    held = lease(tickets, "a", 39)
    (silent,) = lease(tickets, "b", 1)
    for _ in range(3):
        time.sleep(LEASE_S / 2)
        assert tickets.renew("a", held) == set()
    assert [each.entry for each in tickets_of(client, run).lease("c", count=1, timeout_s=0)] == [silent.entry]


def test_completing_leaves_one_body_that_stays(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets = tickets_of(client, run)
    issue(lane, 2, epoch)
    held = lease(tickets, "a", 2)
    assert tickets.complete(held[0], group(0))
    assert claims(client, run, expiring=False) == claimed(lane)
    assert len(claimed(lane)) == 1 and claims(client, run, expiring=True) == []
    assert tickets.complete(held[1], group(1))
    receipts = lane.listing().groups
    assert claims(client, run, expiring=False) == claimed(lane) and len(claimed(lane)) == 2
    assert lane.acknowledge(receipts, epoch=epoch) == 2
    assert claims(client, run, expiring=False) == []


def test_completing_again_after_a_lost_reply_is_the_same(
    client: Client, run: str, epoch: int, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = tickets_of(client, run)
    issue(lane, 1, epoch)
    (held,) = lease(tickets, "a", 1)
    claim = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: claim)  # so that a second call is what the client sends a second time
    for _ in range(3):
        assert tickets.complete(held, group(0))
        assert lane.depth() == Depth(1, 0, 1, 0)
        assert claims(client, run, expiring=False) == claimed(lane) == [claim.hex]
    assert [d.group.prompt_id for d in lane.take("0", count=9, timeout_s=1)[0]] == [0]
    assert lane.acknowledge(lane.listing().groups, epoch=epoch) == 1
    assert not tickets.complete(held, group(0)), "its group has been learned from in between"
    assert lane.depth() == Depth(1, 0, 0, 0)
    assert claims(client, run, expiring=False) == claims(client, run, expiring=True) == []


def test_the_bytes_of_a_worker_that_died_before_completing_expire(
    client: Client, run: str, epoch: int, lane: Lane
) -> None:
    tickets, keys = tickets_of(client, run, lease_s=60.0), LaneKeys(run, "train")
    issue(lane, 1, epoch)
    (held,) = lease(tickets, "a", 1)
    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(scripts, "COMPLETE", "return redis.error_reply('DEAD')")
        with pytest.raises(redis.ResponseError, match="DEAD"):
            tickets.complete(held, group(0))
    assert lane.depth() == Depth(1, 1, 0, 0)
    (claim,) = claims(client, run, expiring=True)
    assert BODY_EXPIRES_S - 60 < client.ttl(keys.body(claim)) <= BODY_EXPIRES_S
    assert claims(client, run, expiring=False) == []
    assert tickets.complete(held, group(0))
    assert claims(client, run, expiring=False) == claimed(lane) != [claim]
    assert claims(client, run, expiring=True) == [claim]


def test_without_its_bytes_nothing_is_completed(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets, keys = tickets_of(client, run, lease_s=60.0), LaneKeys(run, "train")
    issue(lane, 1, epoch)
    (held,) = lease(tickets, "a", 1)
    names = [keys.prompts, keys.groups, keys.body("none")]
    with pytest.raises(redis.ResponseError, match="NOBODY"):
        client.eval(scripts.COMPLETE, 3, *names, "rollout", held.entry, "0", "none", "9")
    assert lane.depth() == Depth(1, 1, 0, 0)
    assert tickets.renew("a", [held]) == set()


def test_failures_lead_to_a_dead_letter(client: Client, run: str, epoch: int, lane: Lane, dead: DeadLetters) -> None:
    tickets = tickets_of(client, run, lease_s=60.0)
    issue(lane, 1, epoch)
    for attempt in (1, 2, 3):
        (held,) = lease(tickets, f"w{attempt}", 1)
        assert held.attempt == attempt
        assert tickets.fail(f"w{attempt}", held, f"cause {attempt}") is (attempt < 3)
    (letter,) = dead.list()
    assert (letter.position, letter.cause, letter.attempts, letter.worker) == (0, "cause 3", 3, "w3")
    assert (letter.source, letter.claim) == ("prompts", "")
    assert letter.body == dead.payload(letter) == encode_prompt(prompts(0, 1)[0])
    assert lane.depth() == Depth(1, 0, 0, 1)
    assert not tickets.complete(held, group(0)), "what is dead is not completed"
    assert claims(client, run, expiring=False) == claims(client, run, expiring=True) == []


def test_workers_that_fall_silent_use_up_the_attempts(
    client: Client, run: str, epoch: int, lane: Lane, dead: DeadLetters
) -> None:
    tickets = tickets_of(client, run, lease_s=0.05)
    issue(lane, 1, epoch)
    for attempt in (1, 2, 3):
        assert lease(tickets, f"w{attempt}", 1)[0].attempt == attempt
        time.sleep(0.06)
    deadline = time.monotonic() + 3
    while not dead.list() and time.monotonic() < deadline:
        assert tickets.lease("w4", count=1, timeout_s=0.05) == []
    (letter,) = dead.list()
    assert letter.cause == "3 workers in turn fell silent while they held it"
    assert (letter.attempts, letter.worker) == (3, "w4")


def test_a_prompt_handed_back_is_not_charged(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets = tickets_of(client, run, lease_s=60.0)
    issue(lane, 1, epoch)
    for worker in "abcdef":
        (held,) = lease(tickets, worker, 1)
        assert held.attempt == 1
        tickets.release(worker, held)


def test_malformed_prompts_are_dead_lettered(
    client: Client, run: str, epoch: int, lane: Lane, dead: DeadLetters
) -> None:
    tickets, keys = tickets_of(client, run), LaneKeys(run, "train")
    client.xadd(keys.prompts, {"id": "7", "body": b"\x80\x04nonsense not of ours"})
    client.xadd(keys.prompts, {"id": "8"})
    client.xadd(keys.prompts, {"id": b"\xff", "claim": b"\xfe", "other": "x"})
    issue(lane, 1, epoch)
    assert [each.prompt.id for each in tickets.lease("a", count=9, timeout_s=1)] == [0]
    letters = dead.list()
    assert [(letter.position, letter.source, letter.worker) for letter in letters] == [
        (7, "prompts", "a"),
        (8, "prompts", "a"),
        (-1, "prompts", "a"),
    ]
    assert letters[0].cause.startswith("wire format 128")
    assert [dead.payload(letter) for letter in letters] == [b"\x80\x04nonsense not of ours", b"", b""]
    assert lane.depth() == Depth(1, 1, 0, 3)
    assert lane.positions() == {0, 7, 8}


def test_a_lane_that_was_wiped_is_made_again(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets = tickets_of(client, run)
    issue(lane, 1, epoch)
    (held,) = lease(tickets, "a", 1)
    client.delete(LaneKeys(run, "train").prompts)
    assert tickets.lease("a", count=1, timeout_s=0) == []
    assert tickets.renew("a", [held]) == {held.entry}
    assert not tickets.complete(held, group(0))
    lane.issue(prompts(1, 1), after=1, epoch=epoch)
    assert [each.prompt.id for each in lease(tickets, "a", 1)] == [1]


def test_what_a_worker_holds_may_be_wiped(client: Client, run: str, epoch: int, lane: Lane) -> None:
    """Before any worker has asked for more, which would make the lane again."""
    tickets = tickets_of(client, run)
    issue(lane, 1, epoch)
    (held,) = lease(tickets, "a", 1)

    def wipe() -> Lease:
        client.delete(LaneKeys(run, "train").prompts)
        return held

    assert not tickets.complete(wipe(), group(0))
    assert tickets.renew("a", [wipe()]) == {held.entry}
    tickets.release("a", wipe())
    assert tickets.fail("a", wipe(), "failed")


def test_images_go_the_same_way_as_tokens(client: Client, run: str, epoch: int, lane: Lane) -> None:
    tickets = tickets_of(client, run, lease_s=60.0)
    issue(lane, 1, epoch)
    latents = np.random.default_rng(0).standard_normal((3, 4, 64, 64)).astype(np.float16)
    steps, logprobs = np.array([999, 666, 333], np.int32), np.array([-1e4, 1e4], np.float32)
    image = DenoisingTrajectory(latents, steps, logprobs, 0, {"prompt": "0"}, guidance=8.0, seed=1, reward=1.0)
    assert tickets.complete(lease(tickets, "a", 1)[0], Group(0, (image,), "a"))
    (taken,) = lane.take("0", count=1, timeout_s=1)[0][0].group.trajectories
    assert taken.latents.tobytes() == latents.tobytes()
    assert taken.condition == {"prompt": "0"}


def test_an_entry_that_is_anothers_by_now_is_not_completed(client: Client, run: str, epoch: int) -> None:
    """A server whose clock is behind may use an entry's number again."""
    lane, tickets = Lane(client, run, "train"), tickets_of(client, run)
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    (held,) = lease(tickets, "a", 1)
    other = Lease(held.entry, prompts(5, 1)[0], 1)
    assert not tickets.complete(other, group(5))
    assert lane.positions() == {0} and lane.depth().prompts == 1
    assert tickets.complete(held, group(0))


def test_a_cause_that_is_no_text_is_kept_as_far_as_it_is(client: Client, run: str, epoch: int) -> None:
    lane, tickets = Lane(client, run, "train"), tickets_of(client, run, max_attempts=1)
    lane.issue(prompts(0, 1), after=0, epoch=epoch)
    (held,) = lease(tickets, "a", 1)
    assert not tickets.fail("a", held, "no such file: \udcff.txt")
    assert DeadLetters(client, run, "train").list()[0].cause == "no such file: \\udcff.txt"
