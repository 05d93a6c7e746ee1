import json

import pytest

from areal.broker.bulletin import Bulletin
from areal.broker.client import Client
from areal.broker.keys import Keys
from areal.broker.meeting import Meeting, Place


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
    meeting.announce(Place(later, "127.0.0.1", 4712, 2))
    assert meeting.place() == Place(later, "127.0.0.1", 4712, 2)


def test_what_was_announced_goes_by_itself(client: Client, run: str) -> None:
    Meeting(client, run).announce(Place(5, "127.0.0.1", 4711, 2))
    assert 0 < client.ttl(Keys(run).meeting(5)) <= 3600


@pytest.mark.parametrize(
    "announced",
    [
        "",
        "none",
        "[]",
        "1",
        json.dumps({"host": "h", "port": 4711}),
        json.dumps({"host": "h", "port": 0, "count": 2}),
        json.dumps({"host": "h", "port": 70000, "count": 2}),
        json.dumps({"host": "h", "port": 4711, "count": 0}),
        json.dumps({"host": "h", "port": "x", "count": 2}),
        "[" * 1000,
        json.dumps({"host": "h" * 2000, "port": 4711, "count": 2}),
    ],
)
def test_what_is_no_place_is_none(client: Client, run: str, announced: str) -> None:
    epoch = Bulletin(client, run).lead()
    client.set(Keys(run).meeting(epoch), announced)
    assert Meeting(client, run).place() is None
