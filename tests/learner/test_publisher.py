import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from areal.broker.bulletin import Bulletin
from areal.broker.chunks import RedisChunks
from areal.broker.client import Client
from areal.broker.errors import BrokerError, Fenced
from areal.broker.weights import WeightStore
from areal.learner.publisher import Publisher


@pytest.fixture
def epoch(client: Client, run: str) -> int:
    return Bulletin(client, run).lead()


@pytest.fixture
def store(client: Client, run: str) -> WeightStore:
    return WeightStore(client, run, RedisChunks(client, run, chunk_bytes=1000), kept=2)


def tensors(value: float) -> dict[str, Tensor]:
    return {"layer.weight": torch.full((50, 70), value)}


def test_an_adapter_arrives_as_it_was(client: Client, run: str, store: WeightStore, epoch: int) -> None:
    publisher = Publisher(store, {"r": 4}, epoch=epoch)
    publisher.publish(3, tensors(3.0))
    publisher.wait()
    reader = WeightStore(client, run, RedisChunks(client, run))
    published = reader.wait(-1, timeout_s=1)
    assert published is not None and published.version == 3
    folder = reader.fetch(published)
    assert (folder / "adapter_config.json").read_text() == '{"r": 4}'
    assert torch.equal(load_file(folder / "adapter_model.safetensors")["layer.weight"], torch.full((50, 70), 3.0))


def test_what_redis_forgot_is_announced_again(client: Client, run: str, store: WeightStore, epoch: int) -> None:
    publisher = Publisher(store, None, epoch=epoch)
    publisher.ensure()  # nothing was published yet
    for version in (0, 1):
        publisher.publish(version, tensors(float(version)))
    publisher.wait()
    publisher.ensure()
    assert client.xlen(store._stream) == 2
    newest = client.xrevrange(store._stream, count=1)[0][0]
    client.xdel(store._stream, newest)
    client.delete(store._transport._keys.weights_of(f"00000001-{epoch}"))  # type: ignore[attr-defined]
    publisher.ensure()
    publisher.wait()
    reader = WeightStore(client, run, RedisChunks(client, run))
    latest = reader.wait(0, timeout_s=1)
    assert latest is not None and latest.version == 1
    assert torch.equal(load_file(reader.fetch(latest) / "model.safetensors")["layer.weight"], torch.full((50, 70), 1.0))
    publisher.ensure()
    assert client.xlen(store._stream) == 2
    publisher.publish(2, tensors(2.0))
    publisher.wait()
    assert client.scard(store._transport._keys.weights_stored) == 2  # type: ignore[attr-defined]


def test_ensuring_does_not_wait_for_a_version_under_way(store: WeightStore, epoch: int) -> None:
    publisher = Publisher(store, None, epoch=epoch)
    go_on = threading.Event()
    publish = store.publish

    def slow(*arguments: object, **options: object) -> object:
        go_on.wait(10)
        return publish(*arguments, **options)  # type: ignore[arg-type]

    store.publish = slow  # type: ignore[assignment, method-assign]
    publisher.publish(0, tensors(0.0))
    began = time.monotonic()
    publisher.ensure()
    assert time.monotonic() - began < 1
    go_on.set()
    publisher.wait()


def test_ensuring_says_at_once_that_a_version_could_not_be_published(
    client: Client, run: str, store: WeightStore, epoch: int
) -> None:
    publisher = Publisher(store, None, epoch=epoch)
    publisher.publish(4, tensors(4.0))
    publisher.wait()
    publisher.publish(3, tensors(3.0))
    with pytest.raises(BrokerError, match="version 3 cannot be published"):
        until_raised(publisher)


def test_a_learner_that_was_replaced_is_told_so(client: Client, run: str, store: WeightStore, epoch: int) -> None:
    publisher = Publisher(store, None, epoch=epoch)
    publisher.publish(0, tensors(0.0))
    publisher.wait()
    Bulletin(client, run).lead()
    client.delete(store._stream)
    with pytest.raises(Fenced):
        until_raised(publisher)


def until_raised(publisher: Publisher) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        publisher.ensure()
        time.sleep(0.01)


def test_nothing_is_written_where_no_disk_is_shared(
    client: Client, run: str, store: WeightStore, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publisher = Publisher(store, None, epoch=epoch)
    publisher.publish(0, tensors(0.0))
    publisher.wait()
    assert list(tmp_path.iterdir()) == []
