"""Weights through Redis: what is stored, what is left, and what is refused."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.broker import chunks
from areal.broker.bulletin import Bulletin
from areal.broker.chunks import LISTING, MAX_CHUNK_BYTES, MAX_FILES, RedisChunks
from areal.broker.client import Client, connect
from areal.broker.errors import BrokerError, BrokerUnavailable, CodecError
from areal.broker.keys import Keys
from areal.broker.server import EmbeddedRedis
from areal.broker.weights import WeightStore

NAME = "00000001-1"
CHUNK = 1000


def filled(**sizes: int) -> Callable[[Path], None]:
    """Writes files of random bytes."""
    source = random.Random(0)
    contents = {name: source.randbytes(size) for name, size in sizes.items()}

    def write(folder: Path) -> None:
        for name, content in contents.items():
            (folder / f"{name}.safetensors").write_bytes(content)

    return write


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def sender(client: Client, run: str) -> RedisChunks:
    return RedisChunks(client, run, chunk_bytes=CHUNK)


@pytest.fixture
def receiver(client: Client, run: str) -> RedisChunks:
    return RedisChunks(client, run)


@pytest.fixture
def key(run: str) -> str:
    return Keys(run).weights_of(NAME)


def keys_of(client: Client, run: str) -> list[str]:
    return sorted(key.decode() for key in client.keys(f"areal:{{{run}}}:*"))


def left_in(receiver: RedisChunks) -> list[str]:
    assert receiver._scratch is not None
    return sorted(path.name for path in receiver._scratch.path.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    "sizes",
    [{"a": 0}, {"a": 1}, {"a": CHUNK}, {"a": CHUNK + 1}, {"b": 4 * CHUNK, "a": 9 * CHUNK + 7, "c": 0, "d": 5}],
    ids=str,
)
def test_files_arrive_byte_for_byte(
    sender: RedisChunks, receiver: RedisChunks, client: Client, key: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    write = filled(**sizes)
    write(tmp_path)
    digest = sender.put(NAME, write)
    folder = receiver.fetch(NAME, digest)
    assert contents(folder) == contents(tmp_path)
    assert folder != tmp_path and left_in(receiver) == [NAME]
    assert client.hlen(key) == 1 + sum(-(-size // CHUNK) for size in sizes.values())


def test_a_file_of_many_large_chunks_arrives_whole(client: Client, run: str, receiver: RedisChunks) -> None:
    size = 5 * MAX_CHUNK_BYTES + 12345
    digest = RedisChunks(client, run).put(NAME, filled(model=size))
    assert (receiver.fetch(NAME, digest) / "model.safetensors").stat().st_size == size
    lengths = [client.hstrlen(Keys(run).weights_of(NAME), f"0.{j}") for j in range(6)]
    assert lengths == [MAX_CHUNK_BYTES] * 5 + [12345]


def test_what_was_put_again_replaces_what_was_there(
    sender: RedisChunks, receiver: RedisChunks, client: Client, key: str
) -> None:
    sender.put(NAME, filled(a=9 * CHUNK))
    digest = sender.put(NAME, filled(a=CHUNK))
    assert client.hlen(key) == 2
    assert receiver.fetch(NAME, digest)


def test_only_the_kept_versions_have_keys(client: Client, run: str, sender: RedisChunks) -> None:
    epoch = Bulletin(client, run).lead()
    store = WeightStore(client, run, sender, kept=3)
    for version in range(6):
        store.publish(version, filled(a=3 * CHUNK), epoch=epoch)
    keys = Keys(run)
    versions = [keys.weights_of(f"{version:08d}-{epoch}") for version in (3, 4, 5)]
    assert keys_of(client, run) == sorted([keys.epoch, keys.weights, keys.weights_stored, *versions])
    assert left_in(sender) == [f"put-00000005-{epoch}"]
    assert all(client.ttl(key) == -1 for key in versions)


class Dies(RedisChunks):
    """Its process is killed after so many messages to Redis."""

    def __init__(self, *arguments: Any, after: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.left = after

    def _run(self, commands: Any) -> list[Any]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super()._run(commands)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_a_learner_that_died_half_way_left_is_deleted(client: Client, run: str, after: int) -> None:
    bulletin = Bulletin(client, run)
    first = bulletin.lead()
    store = WeightStore(client, run, RedisChunks(client, run), kept=2)
    kept = store.publish(0, filled(a=10), epoch=first)
    dying = WeightStore(client, run, Dies(client, run, chunk_bytes=CHUNK, after=after))
    with pytest.raises(KeyboardInterrupt):
        dying.publish(1, filled(a=14 * CHUNK), epoch=first)
    assert store.latest() == kept
    half = client.hlen(Keys(run).weights_of(f"00000001-{first}"))
    assert isinstance(half, int) and 0 < half < 15
    later = bulletin.lead()
    store.publish(1, filled(a=10), epoch=later)
    names = [f"00000000-{first}", f"00000001-{later}"]
    assert keys_of(client, run)[-3:] == [*(Keys(run).weights_of(name) for name in names), Keys(run).weights_stored]
    assert client.smembers(Keys(run).weights_stored) == {name.encode() for name in names}


def test_what_a_learner_sends_after_it_was_replaced_is_deleted_too(client: Client, run: str) -> None:
    """The new one forgets the old one's folder while that is being sent, and the old one dies before it is whole."""
    new = RedisChunks(client, run)

    class Replaced(Dies):
        def _run(self, commands: Any) -> list[Any]:
            if self.left == 2:
                new.forget(set(), epoch=2)
            return super()._run(commands)

    with pytest.raises(KeyboardInterrupt):
        Replaced(client, run, chunk_bytes=CHUNK, after=4).put(NAME, filled(a=20 * CHUNK))
    assert keys_of(client, run) == [Keys(run).weights_of(NAME), Keys(run).weights_stored]
    new.forget(set(), epoch=2)
    assert keys_of(client, run) == []


def test_a_damaged_chunk_is_noticed(sender: RedisChunks, receiver: RedisChunks, client: Client, key: str) -> None:
    digest = sender.put(NAME, filled(a=9 * CHUNK))
    client.hset(key, "0.5", b"x" * CHUNK)
    with pytest.raises(BrokerError, match="damaged"):
        receiver.fetch(NAME, digest)
    client.hset(key, "0.5", b"x" * (CHUNK - 1))
    with pytest.raises(CodecError, match=r"chunk 0\.5 .* has 999 bytes, not 1000"):
        receiver.fetch(NAME, digest)
    assert left_in(receiver) == []


def test_a_missing_chunk_is_noticed(sender: RedisChunks, receiver: RedisChunks, client: Client, key: str) -> None:
    digest = sender.put(NAME, filled(a=9 * CHUNK))
    client.hdel(key, "0.5")
    with pytest.raises(BrokerError, match=r"'0\.5' .* is not there"):
        receiver.fetch(NAME, digest)
    client.delete(key)
    with pytest.raises(BrokerError, match=r"'files' .* is not there"):
        receiver.fetch(NAME, digest)
    assert left_in(receiver) == []


def test_a_version_deleted_while_it_is_read_is_gone(
    client: Client, run: str, sender: RedisChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sender.put(NAME, filled(a=20 * CHUNK))

    class Slow(RedisChunks):
        def _fields(self, key: str, fields: Any, *, max_bytes: int) -> list[bytes]:
            if "0.8" in fields:
                sender.forget(set(), epoch=1)
            return super()._fields(key, fields, max_bytes=max_bytes)

    slow = Slow(client, run)
    with pytest.raises(BrokerError, match=r"'0\.8' .* is not there, or not any more"):
        slow.fetch(NAME, digest)
    assert left_in(slow) == []


def test_a_chunk_is_not_asked_for_before_its_size_is_known(
    sender: RedisChunks, receiver: RedisChunks, client: Client, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sender.put(NAME, filled(a=3 * CHUNK))
    client.hset(key, "0.1", b"x" * (MAX_CHUNK_BYTES + 1))
    asked: list[Any] = []
    run = receiver._run

    def noting(commands: Any) -> list[Any]:
        asked.extend(command for command in commands if command[0] == "HGET")
        return run(commands)

    monkeypatch.setattr(receiver, "_run", noting)
    with pytest.raises(CodecError, match=r"'0\.1' .* has 4194305 bytes, more than 4194304"):
        receiver.fetch(NAME, digest)
    assert [command[2] for command in asked] == [LISTING]


HOSTILE: list[Any] = [
    b"",
    b"\xff\xfe",
    b"not json",
    b"[" * 100_000,
    b"1" * 10_000,
    b"x" * 300_000,
    [],
    3,
    None,
    "files",
    {},
    {"files": [["a.safetensors", 3]]},
    {"files": None, "chunk_bytes": 10},
    {"files": "ab", "chunk_bytes": 10},
    {"files": {"a.safetensors": 3}, "chunk_bytes": 10},
    {"files": [], "chunk_bytes": 10},
    {"files": [3], "chunk_bytes": 10},
    {"files": [["a.safetensors"]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 3, 4]], "chunk_bytes": 10},
    {"files": [[3, "a.safetensors"]], "chunk_bytes": 10},
    {"files": [["a.safetensors", -1]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 3.0]], "chunk_bytes": 10},
    {"files": [["a.safetensors", True]], "chunk_bytes": 10},
    {"files": [["a.safetensors", None]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 1e999]], "chunk_bytes": 10},
    {"files": [["a.safetensors", float("nan")]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 2**60]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 2**35], ["b.safetensors", 2**35]], "chunk_bytes": 10},
    {"files": [["a.safetensors", 3], ["a.safetensors", 3]], "chunk_bytes": 10},
    {"files": [["b.safetensors", 3], ["a.safetensors", 3]], "chunk_bytes": 10},
    {"files": [[f"{i:05d}.safetensors", 0] for i in range(MAX_FILES + 1)], "chunk_bytes": 10},
    {"files": [["a.safetensors", 3]], "chunk_bytes": 0},
    {"files": [["a.safetensors", 3]], "chunk_bytes": -1},
    {"files": [["a.safetensors", 3]], "chunk_bytes": MAX_CHUNK_BYTES + 1},
    {"files": [["a.safetensors", 3]], "chunk_bytes": 2.5},
    {"files": [["a.safetensors", 3]], "chunk_bytes": "10"},
    *(
        {"files": [[name, 3]], "chunk_bytes": 10}
        for name in (
            "../a.safetensors",
            "/tmp/a.safetensors",
            "..\\a.safetensors",
            "a/b.safetensors",
            "a\0.safetensors",
            "a.safetensors\n",
            "a.safetensors/",
            ".safetensors",
            "..safetensors",
            ".a.safetensors",
            "~.safetensors",
            "adapter_config.json.safetensors/..",
            "pytorch_model.bin",
            "config.json",
            ".lock",
            "ä.safetensors",
            "a" * 250 + ".safetensors",
            "",
        )
    ),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: repr(hostile)[:60])
def test_a_hostile_list_of_files_is_refused(
    receiver: RedisChunks, client: Client, key: str, tmp_path: Path, hostile: Any
) -> None:
    client.hset(key, LISTING, hostile if isinstance(hostile, bytes) else json.dumps(hostile))
    for i in range(3):
        client.hset(key, f"{i}.0", b"abc")
    with pytest.raises(BrokerError):
        receiver.fetch(NAME, 0x352441C2)  # the CRC-32 of abc
    assert left_in(receiver) == []
    assert receiver._scratch is not None
    assert not list(receiver._scratch.path.parent.glob("*.safetensors"))


def test_a_list_that_claims_much_and_has_little_takes_no_room(receiver: RedisChunks, client: Client, key: str) -> None:
    files = [[f"{i:03d}.safetensors", 64 * 2**20] for i in range(1000)]
    client.hset(key, LISTING, json.dumps({"files": files, "chunk_bytes": MAX_CHUNK_BYTES}))
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"'0\.0' .* is not there"):
        receiver.fetch(NAME, 0)
    assert time.monotonic() - began < 2
    assert left_in(receiver) == []


def test_a_key_of_another_kind_is_refused(receiver: RedisChunks, client: Client, key: str) -> None:
    client.set(key, "a string")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        receiver.fetch(NAME, 0)


def test_the_one_being_loaded_and_the_newest_stay(sender: RedisChunks, receiver: RedisChunks, client: Client) -> None:
    names = [f"{version:08d}-1" for version in range(4)]
    digests = {name: sender.put(name, filled(a=10 + i)) for i, name in enumerate(names)}
    for name in names:
        receiver.fetch(name, digests[name])
    assert left_in(receiver) == names[2:]
    receiver.fetch(names[2], digests[names[2]])
    assert left_in(receiver) == names[2:]


def test_what_is_here_and_whole_is_not_fetched_again(
    sender: RedisChunks, receiver: RedisChunks, client: Client, key: str
) -> None:
    digest = sender.put(NAME, filled(a=3 * CHUNK))
    folder = receiver.fetch(NAME, digest)
    client.delete(key)
    assert receiver.fetch(NAME, digest) == folder
    (folder / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(BrokerError, match="not there"):
        receiver.fetch(NAME, digest)


def test_a_fetch_has_a_deadline(sender: RedisChunks, receiver: RedisChunks, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sender.put(NAME, filled(a=3 * CHUNK))
    monkeypatch.setattr(chunks, "FETCH_TIMEOUT_S", -1.0)
    with pytest.raises(BrokerError, match="were not fetched from redis at 127"):
        receiver.fetch(NAME, digest)
    assert left_in(receiver) == []


def test_a_redis_that_is_full_is_an_error_that_leaves_the_last_version(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    try:
        client = connect(server.start(), timeout_s=5)
        epoch = Bulletin(client, "run").lead()
        store = WeightStore(client, "run", RedisChunks(client, "run"))
        published = store.publish(0, filled(a=10), epoch=epoch)
        client.config_set("maxmemory", 2 * 2**20)
        with pytest.raises(BrokerError, match=r"redis at 127.* refused weights: command not allowed when used memory"):
            store.publish(1, filled(a=8 * 2**20), epoch=epoch)
        assert store.latest() == published
        client.config_set("maxmemory", 0)
        store.fetch(store.publish(1, filled(a=8 * 2**20), epoch=epoch))
        client.close()
    finally:
        server.stop()


def test_a_redis_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    client = connect(server.start(), timeout_s=0.3)
    sender = RedisChunks(client, "run")
    digest = sender.put(NAME, filled(a=10))
    server.stop()
    for call in (lambda: sender.put("00000002-1", filled(a=10)), lambda: sender.fetch(NAME, digest)):
        with pytest.raises(BrokerUnavailable, match="did not answer"):
            call()
    client.close()
