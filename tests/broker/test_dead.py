import pytest

from areal.broker.client import Client
from areal.broker.codec import encode_group, encode_prompt
from areal.broker.dead import MAX_CAUSE, DeadLetter, DeadLetters
from areal.broker.keys import LaneKeys
from areal.broker.lane import Depth, Lane
from areal.broker.tickets import Tickets

from .samples import claims, group, lease, prompts, tickets_of


class Stage:
    """A lane on which prompts and groups die."""

    def __init__(self, client: Client, run: str, epoch: int) -> None:
        self.client, self.run, self.epoch = client, run, epoch
        self.keys = LaneKeys(run, "train")
        self.lane = Lane(client, run, "train")
        self.dead = DeadLetters(client, run, "train")
        self.tickets: Tickets = tickets_of(client, run, lease_s=60.0, max_attempts=1)

    def bury_prompts(self, count: int) -> None:
        issued = self.lane.depth().issued
        self.lane.issue(prompts(issued, count), after=issued, epoch=self.epoch)
        for held in lease(self.tickets, "w", count):
            assert not self.tickets.fail("w", held, f"prompt {held.prompt.id} failed")

    def bury_groups(self, count: int) -> None:
        issued = self.lane.depth().issued
        self.lane.issue(prompts(issued, count), after=issued, epoch=self.epoch)
        for held in lease(self.tickets, "w", count):
            assert self.tickets.complete(held, group(held.prompt.id))
        for delivery in self.lane.fetch(self.lane.listing().groups):
            assert self.lane.reject(
                delivery.receipt, f"group {delivery.group.prompt_id} failed", worker="w", epoch=self.epoch
            )

    def bodies(self) -> list[str]:
        return claims(self.client, self.run, expiring=False)


@pytest.fixture
def stage(client: Client, run: str, epoch: int) -> Stage:
    return Stage(client, run, epoch)


def positions(letters: list[DeadLetter]) -> list[int]:
    return [letter.position for letter in letters]


def test_what_is_gone_is_not_buried(stage: Stage) -> None:
    for source in ("prompts", "groups"):
        assert not stage.dead.bury(source, "1-1", "gone")
    stage.bury_prompts(1)
    assert stage.lane.depth() == Depth(1, 0, 0, 1)


def test_a_burial_moves_what_it_buries(stage: Stage) -> None:
    stage.lane.issue(prompts(0, 2), after=0, epoch=stage.epoch)
    first, second = lease(stage.tickets, "a", 2)
    assert stage.dead.bury("prompts", first.entry, "by hand", attempts=7, worker="é")
    assert not stage.dead.bury("prompts", first.entry, "by hand")
    (letter,) = stage.dead.list()
    assert letter == DeadLetter(
        entry=letter.entry,
        position=0,
        source="prompts",
        cause="by hand",
        attempts=7,
        worker="é",
        body=encode_prompt(prompts(0, 1)[0]),
        claim="",
    )
    assert stage.tickets.renew("a", [first, second]) == {first.entry}
    assert stage.lane.depth() == Depth(2, 1, 0, 1)


def test_they_are_listed_page_by_page(stage: Stage) -> None:
    assert stage.dead.list() == []
    stage.bury_prompts(5)
    pages, after = [], "-"
    while page := stage.dead.list(after, count=2):
        pages.append(positions(page))
        after = page[-1].entry
    assert pages == [[0, 1], [2, 3], [4]]
    assert positions(stage.dead.list()) == [0, 1, 2, 3, 4]


def test_one_is_found_by_its_entry(stage: Stage) -> None:
    stage.bury_prompts(3)
    letters = stage.dead.list()
    assert stage.dead.get(letters[1].entry) == letters[1]
    assert stage.dead.get("1-1") is None


def test_their_payload_is_what_died(stage: Stage) -> None:
    stage.bury_prompts(1)
    stage.bury_groups(1)
    prompt, buried = stage.dead.list()
    assert (prompt.source, buried.source) == ("prompts", "groups")
    assert stage.dead.payload(prompt) == encode_prompt(prompts(0, 1)[0])
    assert stage.dead.payload(buried) == encode_group(group(1))
    assert (buried.body, buried.worker, buried.cause) == (b"", "w", "group 1 failed")
    stage.client.delete(stage.keys.body(buried.claim))
    assert stage.dead.payload(buried) == b""


def test_the_end_of_a_long_cause_is_kept(stage: Stage) -> None:
    stage.lane.issue(prompts(0, 1), after=0, epoch=stage.epoch)
    (held,) = lease(stage.tickets, "w", 1)
    stage.dead.bury("prompts", held.entry, "Traceback" + "x" * MAX_CAUSE + "the error itself")
    (letter,) = stage.dead.list()
    assert len(letter.cause) == MAX_CAUSE and letter.cause.endswith("xthe error itself")


def test_a_letter_is_tried_again_when_there_is_room(stage: Stage) -> None:
    stage.bury_prompts(2)
    stage.bury_groups(2)
    letters = stage.dead.list()
    assert stage.dead.retry([]) == 0
    assert stage.dead.retry(letters) == 4
    assert stage.dead.retry(letters) == 0, "they are on their way"
    assert stage.dead.drop(letters) == 0
    assert stage.lane.depth() == Depth(4, 0, 0, 0, again=4)
    assert stage.lane.positions() == {0, 1, 2, 3} and len(stage.bodies()) == 2
    assert [stage.lane.resume(count, waiting=stage.lane.depth().again, epoch=stage.epoch) for count in (-1, 0, 1)] == [
        0,
        0,
        1,
    ]
    assert stage.lane.depth() == Depth(4, 1, 0, 0, again=3)
    assert [stage.lane.resume(count, waiting=stage.lane.depth().again, epoch=stage.epoch) for count in (2, 9, 9)] == [
        2,
        1,
        0,
    ]
    assert stage.lane.depth() == Depth(4, 2, 2, 0)
    leases = lease(stage.tickets, "w", 2)
    assert [(held.prompt, held.attempt) for held in leases] == [(prompt, 1) for prompt in prompts(0, 2)]
    deliveries, _ = stage.lane.take("0", count=9, timeout_s=1)
    assert [d.group.prompt_id for d in deliveries] == [2, 3]
    assert stage.lane.acknowledge([d.receipt for d in deliveries], epoch=stage.epoch) == 2
    assert stage.bodies() == []


def test_a_letter_may_die_again(stage: Stage) -> None:
    stage.bury_prompts(1)
    for _ in range(2):
        stage.dead.retry(stage.dead.list())
        stage.lane.resume(1, waiting=stage.lane.depth().again, epoch=stage.epoch)
        (held,) = lease(stage.tickets, "w2", 1)
        assert not stage.tickets.fail("w2", held, "again")
    (letter,) = stage.dead.list()
    assert (letter.position, letter.cause, letter.attempts, letter.worker) == (0, "again", 1, "w2")
    assert stage.dead.payload(letter) == encode_prompt(prompts(0, 1)[0])


def test_a_dropped_letter_is_forgotten_with_its_bytes(stage: Stage) -> None:
    stage.bury_prompts(1)
    stage.bury_groups(2)
    letters = stage.dead.list()
    assert len(stage.bodies()) == 2
    assert stage.dead.drop([]) == 0
    assert stage.dead.drop(letters[:2]) == 2
    assert stage.dead.drop(letters[:2]) == 0
    assert stage.dead.retry(letters[:2]) == 0
    assert stage.lane.depth() == Depth(3, 0, 0, 1, dropped=2)
    assert stage.bodies() == [letters[2].claim]
    assert stage.lane.positions() == {0, 1, 2}, "their positions are not missed, and so never issued again"


def test_letters_that_make_no_sense_are_shown_and_may_be_dropped(stage: Stage) -> None:
    odd: list[dict[str, str | bytes]] = [
        {"other": "x"},
        {"id": "-3", "attempts": "many", "cause": b"\xff", "worker": b"\xfe", "from": "elsewhere"},
        {"id": "1" * 40, "claim": "nobody's"},
    ]
    for fields in odd:
        stage.client.xadd(stage.keys.dead, fields)  # type: ignore[arg-type]
    letters = stage.dead.list()
    assert positions(letters) == [-1, -1, -1]
    assert [letter.attempts for letter in letters] == [0, 0, 0]
    assert [letter.cause for letter in letters] == ["", "�", ""]
    assert [stage.dead.payload(letter) for letter in letters] == [b"", b"", b""]
    assert stage.dead.drop(letters[:1]) == 1
    assert stage.lane.depth() == Depth(0, 0, 0, 2), "there is no position to remember"
    assert stage.dead.retry(letters[1:]) == 2
    assert stage.lane.resume(9, waiting=stage.lane.depth().again, epoch=stage.epoch) == 2
    assert stage.tickets.lease("w", count=9, timeout_s=0) == []
    assert stage.lane.depth() == Depth(0, 0, 0, 2), "they die again"
