from areal.broker.bulletin import DRAIN, RUN, Bulletin
from areal.broker.client import Client


def test_records_are_read_on_from_where_one_was(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    assert bulletin.last() == "0"
    assert bulletin.read("0", timeout_s=0.01) == ([], "0")
    for number in range(3):
        bulletin.report({"kind": "event", "text": f"é {number}"})
    records, after = bulletin.read("0", timeout_s=1, count=2)
    assert [record["text"] for record in records] == ["é 0", "é 1"]
    records, after = bulletin.read(after, timeout_s=1)
    assert [record["text"] for record in records] == ["é 2"]
    assert after == bulletin.last()
    assert bulletin.read(after, timeout_s=0.01) == ([], after)


def test_the_order_stands_until_another(client: Client, run: str) -> None:
    bulletin = Bulletin(client, run)
    assert bulletin.ordered() == RUN
    bulletin.order(DRAIN)
    assert Bulletin(client, run).ordered() == DRAIN
    assert Bulletin(client, run + "-other").ordered() == RUN


def test_every_learner_has_an_epoch_of_its_own(client: Client, run: str) -> None:
    assert [Bulletin(client, run).lead() for _ in range(3)] == [1, 2, 3]
