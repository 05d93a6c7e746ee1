import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.broker.errors import BrokerError, CodecError
from areal.transfer.line import (
    ITEM_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SAID_BYTES,
    MAX_TENSOR_BYTES,
    Ask,
    Entry,
    Hello,
    Line,
    Manifest,
    Message,
    Welcome,
)

KINDS: list[type[Message]] = [Hello, Welcome, Ask, Manifest]
ENTRIES = st.builds(
    Entry,
    name=st.text(min_size=1, max_size=20),
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    shape=st.lists(st.integers(0, 40), max_size=4),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@contextlib.contextmanager
def connected() -> Iterator[tuple[Line, socket.socket]]:
    """A line, and the bare other end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bare = socket.create_connection(listener.getsockname())
        line = Line(listener.accept()[0])
    try:
        yield line, bare
    finally:
        line.close()
        bare.close()


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


@given(st.lists(ENTRIES, max_size=8, unique_by=lambda entry: entry.name), st.text(max_size=64))
def test_what_is_said_is_heard(entries: list[Entry], token: str) -> None:
    with connected() as (line, bare):
        other = Line(bare)
        for message in (Manifest(tensors=entries), Manifest(tensors=None), Hello(token=token, devices=["", "GPU-1"])):
            line.say(message, timeout_s=5)
            assert other.hear(type(message), timeout_s=5) == message


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_hostile_bytes_are_a_message_or_an_error_of_ours(kind: type[Message], sent: bytes) -> None:
    with connected() as (line, bare):
        bare.sendall(sent)
        bare.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokerError):
            line.hear(kind, timeout_s=5)


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whole_messages_of_anything_are_refused(kind: type[Message], body: bytes) -> None:
    with connected() as (line, bare):
        bare.sendall(framed(body))
        with pytest.raises(CodecError, match=f"no {kind.__name__}"):
            line.hear(kind, timeout_s=5)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Hello, {"token": "x" * 65, "devices": [""]}),
        (Hello, {"token": "x", "devices": []}),
        (Hello, {"token": "x", "devices": [""] * 65}),
        (Hello, {"token": "x", "devices": ["x" * 65]}),
        (Hello, {"token": b"x".hex(), "devices": [""], "more": 1}),
        (Welcome, {"backend": "mpi", "port": 1, "prefix": ""}),
        (Welcome, {"backend": "gloo", "port": 65536, "prefix": ""}),
        (Ask, {"name": "../../etc"}),
        (Ask, {"name": "00000001-1\n"}),
        (Manifest, {"tensors": [{"name": "", "dtype": "float32", "shape": []}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "object", "shape": []}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "float32", "shape": [-1]}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "float32", "shape": [1.5]}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "float32", "shape": [1] * 9}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "uint8", "shape": [MAX_TENSOR_BYTES, 2]}]}),
        (Manifest, {"tensors": [{"name": "a", "dtype": "float32", "shape": []}] * 2}),
        (Manifest, {}),
    ],
)
def test_what_is_out_of_bounds_is_refused(kind: type[Message], said: object) -> None:
    with connected() as (line, bare):
        bare.sendall(framed(json.dumps(said).encode()))
        with pytest.raises(CodecError, match=f"no {kind.__name__}"):
            line.hear(kind, timeout_s=5)


def test_deep_nesting_is_refused() -> None:
    with connected() as (line, bare):
        bare.sendall(framed(b"[" * 10_000))
        with pytest.raises(CodecError):
            line.hear(Ask, timeout_s=5)


@pytest.mark.parametrize(("kind", "limit"), [(Hello, MAX_SAID_BYTES), (Manifest, MAX_MANIFEST_BYTES)])
def test_a_length_beyond_the_limit_is_refused_before_anything_is_read(kind: type[Message], limit: int) -> None:
    with connected() as (line, bare):
        bare.sendall(struct.pack("!I", limit + 1))
        with pytest.raises(CodecError, match=f"{limit + 1} bytes, more than"):
            line.hear(kind, timeout_s=5, max_bytes=limit)


def test_half_a_message_that_drips_is_no_longer_waited_for_than_none() -> None:
    with connected() as (line, bare):
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                bare.sendall(struct.pack("!I", 1000))
                while not over.wait(0.05):
                    bare.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(BrokerError, match="half a message"):
            line.hear(Hello, timeout_s=0.3)
        over.set()
        thread.join()


def test_who_takes_nothing_is_not_waited_for() -> None:
    with connected() as (line, _):
        long = Manifest(tensors=[Entry(name=f"{i}" * 40, dtype="uint8", shape=[]) for i in range(90_000)])
        with pytest.raises(BrokerError, match="not taken within"):
            line.say(long, timeout_s=0.2)


def test_an_end_that_hangs_up_is_noticed() -> None:
    with connected() as (line, bare):
        line.require_open()
        bare.sendall(framed(b"{}"))  # what was said before is there to be heard
        line.require_open()
        bare.close()
        with pytest.raises(CodecError):
            line.hear(Ask, timeout_s=5)
        with pytest.raises(BrokerError, match="gone"):
            line.require_open()


def test_closing_wakes_who_listens() -> None:
    with connected() as (line, _):
        threading.Timer(0.1, line.close).start()
        with pytest.raises(BrokerError, match=r"gone|broken"):
            line.hear(Ask, timeout_s=None)
