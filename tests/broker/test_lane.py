import time
from typing import Any

import numpy as np
import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.codec import encode_prompt
from areal.broker.config import BrokerConfig
from areal.broker.errors import Fenced
from areal.broker.keys import Keys
from areal.broker.lane import Depth, Lane, Lease
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory

LEASE_S = 0.15
BROKER = BrokerConfig(lease_s=LEASE_S, max_attempts=3)


def lane_of(client: Client, run: str, **options: Any) -> Lane:
    return Lane(client, run, "train", BROKER.model_copy(update=options))


def prompts(first: int, count: int) -> list[Prompt]:
    return [Prompt(i, 0, 2, {"prompt": str(i)}) for i in range(first, first + count)]


def group(prompt_id: int, reward: float = 1.0) -> Group:
    versions = np.array([NOT_AN_ACTION, 0], np.int32)
    trajectory = TokenTrajectory(np.array([1, 2], np.int32), versions, np.array([0, -1], np.float32), reward)
    return Group(prompt_id, (trajectory,), "w")


def lease(lane: Lane, worker: str, count: int, *, timeout_s: float = 3.0) -> list[Lease]:
    """As a worker does: asked for again until `count` have come."""
    leases: list[Lease] = []
    deadline = time.monotonic() + timeout_s
    while len(leases) < count and time.monotonic() < deadline:
        leases += lane.lease(worker, count=count - len(leases), timeout_s=0.05)
    assert len(leases) == count
    return leases


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    return Bulletin(client, run).lead()


def test_positions_are_issued_once(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    assert lane.issue(prompts(0, 3), epoch=epoch) == 3
    assert lane.issue(prompts(0, 3), epoch=epoch) == 3
    assert lane.issue(prompts(2, 3), epoch=epoch) == 5
    assert lane.issue([], epoch=epoch) == 5
    assert lane.depth() == Depth(issued=5, prompts=5, groups=0, dead=0)
    assert [each.prompt.id for each in lease(lane, "a", 5)] == [0, 1, 2, 3, 4]


def test_a_gap_is_not_issued(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    assert lane.issue(prompts(4, 2), epoch=epoch) == 0
    assert lane.depth() == Depth(0, 0, 0, 0)


def test_an_earlier_learner_is_fenced(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 1), epoch=epoch)
    lane.complete(lease(lane, "a", 1)[0], group(0))
    entry = lane.take("0", count=1, timeout_s=1)[0][0].entry
    Bulletin(client, run).lead()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        lane.issue(prompts(1, 1), epoch=epoch)
    with pytest.raises(Fenced):
        lane.acknowledge([entry], epoch=epoch)
    assert lane.depth() == Depth(1, 0, 1, 0)


def test_images_go_the_same_way_as_tokens(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 1), epoch=epoch)
    latents = np.random.default_rng(0).standard_normal((3, 4, 64, 64)).astype(np.float16)
    steps, logprobs = np.array([999, 499], np.int32), np.array([-1e4, 1e4], np.float32)
    image = DenoisingTrajectory(latents, steps, logprobs, 0, {"prompt": "0"}, guidance=8.0, seed=1, reward=1.0)
    lane.complete(lease(lane, "a", 1)[0], Group(0, (image,), "a"))
    (taken,) = lane.take("0", count=1, timeout_s=1)[0][0].group.trajectories
    assert taken.latents.tobytes() == latents.tobytes()
    assert taken.condition == {"prompt": "0"}


def test_a_lease_is_exclusive_while_renewed(client: Client, run: str, epoch: int) -> None:
    one, other = lane_of(client, run), lane_of(client, run)
    one.issue(prompts(0, 2), epoch=epoch)
    held = lease(one, "a", 2)
    deadline = time.monotonic() + 4 * LEASE_S
    while time.monotonic() < deadline:
        assert one.renew("a", held) == set()
        assert other.lease("b", count=2, timeout_s=0.03) == []
        other._reclaimed_at = 0.0
    assert one.renew("a", []) == set()


def test_an_expired_lease_moves_and_its_zombie_changes_nothing(client: Client, run: str, epoch: int) -> None:
    one, other = lane_of(client, run), lane_of(client, run)
    one.issue(prompts(0, 1), epoch=epoch)
    (first,) = lease(one, "a", 1)
    time.sleep(1.5 * LEASE_S)
    (second,) = lease(other, "b", 1)
    assert (first.attempt, second.attempt, second.entry) == (1, 2, first.entry)
    assert one.renew("a", [first]) == {first.entry}
    assert other.complete(second, group(0, reward=2.0))
    assert not one.complete(first, group(0, reward=1.0))
    one.release("a", first)
    assert one.fail("a", first, "late")
    deliveries, _ = one.take("0", count=10, timeout_s=1)
    assert [d.group.trajectories[0].reward for d in deliveries] == [2.0]
    assert one.depth() == Depth(1, 0, 1, 0)


def test_the_zombie_may_be_the_first_to_complete(client: Client, run: str, epoch: int) -> None:
    one, other = lane_of(client, run), lane_of(client, run)
    one.issue(prompts(0, 1), epoch=epoch)
    (first,) = lease(one, "a", 1)
    time.sleep(1.5 * LEASE_S)
    (second,) = lease(other, "b", 1)
    assert one.complete(first, group(0))
    assert not other.complete(second, group(0))
    assert other.renew("b", [second]) == {second.entry}
    assert one.depth() == Depth(1, 0, 1, 0)


def test_an_expired_lease_is_found_behind_many_that_live(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 40), epoch=epoch)
    held = lease(lane, "a", 39)
    (silent,) = lease(lane, "b", 1)
    for _ in range(3):
        time.sleep(LEASE_S / 2)
        assert lane.renew("a", held) == set()
    assert [each.entry for each in lane_of(client, run).lease("c", count=1, timeout_s=0)] == [silent.entry]


def test_failures_lead_to_a_dead_letter(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run, lease_s=60.0)
    lane.issue(prompts(0, 1), epoch=epoch)
    for attempt in (1, 2, 3):
        (held,) = lease(lane, f"w{attempt}", 1)
        assert held.attempt == attempt
        assert lane.fail(f"w{attempt}", held, f"cause {attempt}") is (attempt < 3)
    (letter,) = lane.dead_letters()
    assert (letter.prompt_id, letter.cause, letter.attempts, letter.worker) == (0, "cause 3", 3, "w3")
    assert letter.body == encode_prompt(prompts(0, 1)[0])
    assert lane.depth() == Depth(1, 0, 0, 1)


def test_workers_that_fall_silent_use_up_the_attempts(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run, lease_s=0.05)
    lane.issue(prompts(0, 1), epoch=epoch)
    for attempt in (1, 2, 3):
        assert lease(lane, f"w{attempt}", 1)[0].attempt == attempt
        time.sleep(0.06)
    deadline = time.monotonic() + 3
    while not lane.dead_letters() and time.monotonic() < deadline:
        assert lane.lease("w4", count=1, timeout_s=0.05) == []
    (letter,) = lane.dead_letters()
    assert letter.cause == "3 workers in turn fell silent while they held it"
    assert letter.attempts == 3


def test_a_prompt_handed_back_is_not_charged(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run, lease_s=60.0)
    lane.issue(prompts(0, 1), epoch=epoch)
    for worker in "abcdef":
        (held,) = lease(lane, worker, 1)
        assert held.attempt == 1
        lane.release(worker, held)


def test_malformed_messages_are_dead_lettered(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    keys = Keys(run)
    client.xadd(keys.of("train", "prompts"), {"id": "7", "body": b"\x80\x04nonsense"})
    client.xadd(keys.of("train", "groups"), {"id": "8", "body": b"\x80\x04nonsense"})
    client.xadd(keys.of("train", "groups"), {"id": "9"})
    lane.issue(prompts(0, 1), epoch=epoch)
    assert [each.prompt.id for each in lane.lease("a", count=4, timeout_s=1)] == [0]
    deliveries, after = lane.take("0", count=4, timeout_s=1)
    assert deliveries == [] and after != "0"
    assert sorted(letter.prompt_id for letter in lane.dead_letters()) == [7, 8, 9]
    assert lane.dead_letters(count=1)[0].cause.startswith("wire format 128")
    assert lane.depth().groups == 0


def test_groups_come_in_order_until_acknowledged(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 4), epoch=epoch)
    for held, number in zip(reversed(lease(lane, "a", 4)), (3, 2, 1, 0), strict=True):
        assert lane.complete(held, group(number))
    first, after = lane.take("0", count=3, timeout_s=1)
    rest, after = lane.take(after, count=3, timeout_s=1)
    assert [d.group.prompt_id for d in first + rest] == [3, 2, 1, 0]
    assert lane.take(after, count=3, timeout_s=0.02) == ([], after)
    assert lane.acknowledge([first[0].entry, rest[0].entry], epoch=epoch) == 2
    assert lane.acknowledge([first[0].entry, first[1].entry], epoch=epoch) == 1
    assert lane.acknowledge([], epoch=epoch) == 0
    again, _ = lane.take("0", count=9, timeout_s=1)
    assert [d.group.prompt_id for d in again] == [1]
    assert lane.depth() == Depth(issued=4, prompts=0, groups=1, dead=0)


def test_a_lane_that_was_wiped_is_made_again(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    client.delete(Keys(run).of("train", "prompts"))
    assert lane.lease("a", count=1, timeout_s=0) == []
    lane.issue(prompts(0, 1), epoch=epoch)
    assert len(lease(lane, "a", 1)) == 1


def test_nothing_below_a_position_that_was_skipped_to_is_issued(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.skip_to(5, epoch=epoch)
    assert lane.depth() == Depth(5, 0, 0, 0)
    assert lane.issue(prompts(0, 5), epoch=epoch) == 5
    assert lane.depth() == Depth(5, 0, 0, 0)
    assert lane.issue(prompts(3, 4), epoch=epoch) == 7
    assert [each.prompt.id for each in lease(lane, "a", 2)] == [5, 6]


def test_a_skip_never_goes_back(client: Client, run: str, epoch: int) -> None:
    lane = lane_of(client, run)
    lane.issue(prompts(0, 3), epoch=epoch)
    for position in (0, 2, 3):
        lane.skip_to(position, epoch=epoch)
    assert lane.depth() == Depth(3, 3, 0, 0)
    Bulletin(client, run).lead()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        lane.skip_to(9, epoch=epoch)
    assert lane.depth() == Depth(3, 3, 0, 0)
