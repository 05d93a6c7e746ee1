import json
import logging
import time

import pytest

from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client
from areal.broker.errors import Fenced
from areal.broker.fence import require_lead
from areal.broker.keys import Keys


def test_records_are_read_on_from_where_one_was(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    assert bulletin.last() == "0"
    assert bulletin.read("0", timeout_s=0.01) == ([], "0")
    for number in range(3):
        bulletin.report({"kind": "event", "time": 1.5, "text": f"é {number}"})
    records, after = bulletin.read("0", timeout_s=1, count=2)
    assert [record["text"] for record in records] == ["é 0", "é 1"]
    records, after = bulletin.read(after, timeout_s=1)
    assert [record["text"] for record in records] == ["é 2"]
    assert after == bulletin.last()
    assert bulletin.read(after, timeout_s=0.01) == ([], after)


def test_a_record_that_is_none_is_left_out_and_told(client: Client, run: str, caplog: pytest.LogCaptureFixture) -> None:
    bulletin = Bulletin(client, run)
    good = {"kind": "event", "time": 1.5, "text": "hello"}
    bulletin.report(good)
    for odd in (b"{", b"\xff", b"[1]", b"3", json.dumps({"kind": "event"}), json.dumps({"time": 1.5})):
        client.xadd(Keys(run).records, {"record": odd})
    client.xadd(Keys(run).records, {"other": json.dumps(good)})
    with caplog.at_level(logging.WARNING):
        records, after = bulletin.read("0", timeout_s=0.01, count=4)
        assert records == [good]
        records, after = bulletin.read(after, timeout_s=0.01)  # none of these is a record, but it goes on
        assert records == [] and after == bulletin.last()
    assert len(caplog.messages) == 7 and all("was left out" in said for said in caplog.messages)
    bulletin.report(good)
    assert bulletin.read(after, timeout_s=0.01) == ([good], bulletin.last())


def test_the_order_stands_until_another(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    assert bulletin.ordered() == RUN
    for word in (DRAIN, DRAIN, RUN, DRAIN):
        bulletin.keep_order(word)
        assert Bulletin(client, run).ordered() == word
    assert Bulletin(client, run + "-other").ordered() == RUN


def test_every_learner_has_an_epoch_of_its_own(client: Client, run: str) -> None:
    before = round(1000 * time.time())
    epochs = [Bulletin(client, run).lead() for _ in range(50)]
    assert sorted(set(epochs)) == epochs
    assert before - 1000 < epochs[0] and epochs[-1] < round(1000 * time.time()) + 1000
    assert client.get(Keys(run).epoch) == str(epochs[-1]).encode()


def test_an_epoch_is_above_the_one_that_is_known_of(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    ahead = round(1000 * time.time()) + 10**6
    assert [bulletin.lead(after=ahead), bulletin.lead(after=ahead), bulletin.lead(after=2)] == [
        ahead + 1,
        ahead + 2,
        ahead + 3,
    ]
    assert [bulletin.lead(), bulletin.lead(after=ahead + 7)] == [ahead + 4, ahead + 8]


def test_an_epoch_that_redis_forgot_is_not_given_twice(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    first = bulletin.lead()
    client.delete(Keys(run).epoch)
    time.sleep(0.002)
    assert bulletin.lead() > first


def test_only_a_later_learner_takes_the_lead_away(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    first = bulletin.lead()
    require_lead(client, run, first)
    client.delete(Keys(run).epoch)
    require_lead(client, run, first)
    bulletin.lead(after=first)
    with pytest.raises(Fenced, match=f"epoch {first} is over"):
        require_lead(client, run, first)


def test_an_order_and_a_record_of_odd_bytes_end_nobody(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    client.set(Keys(run).order, b"\xff")
    assert bulletin.ordered() == "run"
    client.xadd(Keys(run).records, {"record": b"[" * 50_000})
    assert bulletin.read("0", timeout_s=0.01)[0] == []
