import json

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.keys import Keys
from areal.broker.meeting import Meeting, Place

PLACE = {"host": "h", "port": 4711, "count": 2, "token": "t" * 22}


def test_the_ranks_of_the_leading_epoch_meet(client: Client, run: str) -> None:
    meeting, bulletin = Meeting(client, run), Bulletin(client, run)
    assert meeting.place() is None
    epoch = bulletin.lead()
    assert meeting.place() is None
    place = Place(epoch, "127.0.0.1", 4711, 2)
    meeting.announce(place)
    assert meeting.place() == place
    later = bulletin.lead(after=epoch)
    assert meeting.place() is None, "what an earlier leader announced leads nowhere"
    meeting.announce(place)
    assert meeting.place() is None
    there = Place(later, "127.0.0.1", 4712, 2)
    meeting.announce(there)
    assert meeting.place() == there


def test_what_was_announced_goes_by_itself(client: Client, run: str) -> None:
    Meeting(client, run).announce(Place(5, "127.0.0.1", 4711, 2))
    assert 0 < client.ttl(Keys(run).meeting(5)) <= 3600


def test_no_two_places_have_the_same_token() -> None:
    first, second = (Place(1, "127.0.0.1", 4711, 2) for _ in range(2))
    assert first.token != second.token and len(first.token) >= 16


def test_a_place_is_read_as_it_was_announced(client: Client, run: str) -> None:
    epoch = Bulletin(client, run).lead()
    client.set(Keys(run).meeting(epoch), json.dumps(PLACE))
    assert Meeting(client, run).place() == Place(epoch, "h", 4711, 2, "t" * 22)


@pytest.mark.parametrize(
    "announced",
    [
        "",
        "none",
        "[]",
        "1",
        json.dumps(PLACE).replace('"count": 2, ', ""),
        json.dumps(PLACE).replace("4711", "1e999"),
        json.dumps(PLACE).replace("4711", "NaN"),
        json.dumps(PLACE | {"port": 0}),
        json.dumps(PLACE | {"port": 70000}),
        json.dumps(PLACE | {"count": 0}),
        json.dumps(PLACE | {"port": "x"}),
        json.dumps(PLACE | {"token": ""}),
        json.dumps(PLACE | {"token": "../" * 8}),
        json.dumps({name: value for name, value in PLACE.items() if name != "token"}),
        "[" * 1000,
        json.dumps(PLACE | {"host": "h" * 2000}),
    ],
)
def test_what_is_no_place_is_none(client: Client, run: str, announced: str) -> None:
    epoch = Bulletin(client, run).lead()
    client.set(Keys(run).meeting(epoch), announced)
    assert Meeting(client, run).place() is None
