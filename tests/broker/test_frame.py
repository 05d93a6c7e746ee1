import contextlib
import struct
import tracemalloc

import msgpack
import pytest

from areal.broker import frame
from areal.broker.codec import decode_group, decode_prompt, encode_prompt
from areal.broker.errors import CodecError
from areal.broker.trajectory import Prompt


def framed(kind: int, packed: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", 2, kind, 0, len(packed)) + packed + bytes(-len(packed) % 8) + payload


def prompt_with(row: bytes) -> bytes:
    """A prompt whose row is this msgpack."""
    fields = b"\x85\xa6arrays\x90\xa2id\x01\xabmin_version\x00\xaagroup_size\x01\xa3row"
    return framed(1, fields + row)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01", "StackError"),
        (b"\x81\xa1a" * 100_000 + b"\x01", "StackError"),
        (b"\x81\xa1a" + b"\xdd\xff\xff\xff\xff" * 1000, "OutOfData"),
        (b"\x81\xa1a" + b"\xdd\x00\x00\xff\xff" * 1000, "OutOfData"),
        (b"\x81\xa1a" + b"\xdf\xff\xff\xff\xff" * 1000, "OutOfData"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xffa", "OutOfData"),
        (b"\x81\xa1a" + b"\x91" * 64 + b"\xc0", "nested more than 64"),
        (b"\x82\xa1a\x01\xa1a\x01", "a key twice"),
        (b"\x81\x01\x01", "ValueError"),
        (b"\x81\x91\xa1a\x01", "ValueError"),
        (b"\x81\xc4\x00\x01", "more than JSON"),
        (b"\x81\xa1a\xc4\x01a", "max_bin_len"),
        (b"\x81\xa1a\xc4\x00", "more than JSON"),
        (b"\x81\xa1a\xd4\x05a", "max_ext_len"),
        (b"\x81\xa1a\xc7\x00\x05", "more than JSON"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x01", "max_ext_len"),
        (b"\x81\xa1a\xd7\xff" + bytes(8), "max_ext_len"),
        (b"\x81\xa1a\xc1", "FormatError"),
        (b"\x81\xa1a\xa2\xff\xfe", "UnicodeDecodeError"),
        (b"\x81\xa1a\xa3\xed\xa0\x80", "UnicodeDecodeError"),
        (b"\x80\x00", "ExtraData"),
        (b"\x90", "row is not a mapping"),
    ],
)
def test_msgpack_that_is_no_json_is_refused(row: bytes, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        decode_prompt(prompt_with(row))


@pytest.mark.parametrize("depth", [500, 900, 1000])
@pytest.mark.parametrize("field", ["id", "row", "arrays"])
def test_nesting_where_none_belongs_is_refused(field: str, depth: int) -> None:
    header = msgpack.packb({"arrays": [], "id": 1, "min_version": 0, "group_size": 1, "row": {}})
    valid = {"arrays": b"\x90", "id": b"\x01", "row": b"\x80"}[field]
    name = msgpack.packb(field)
    with pytest.raises(CodecError):
        decode_prompt(framed(1, header.replace(name + valid, name + b"\x91" * depth + b"\xc0")))


@pytest.mark.parametrize(
    "unit", [b"\xdd\x00\x01\x00\x00", b"\x81\xa0\xc0", b"\x80", b"\x90", b"\xa2ab", b"\xdc\xff\xff"]
)
def test_a_header_takes_memory_in_proportion_to_its_size(unit: bytes) -> None:
    """The first unit nests 1,000 arrays that each claim the rest of the message: 0.5 GB, were they believed."""
    count = 65_536 // len(unit) if unit[0] < 0xDC else 1000
    rest = bytes(65_536) if unit[0] >= 0xDC else b""
    message = prompt_with(b"\x81\xa1a\xdd" + struct.pack(">I", count) + unit * count + rest)
    tracemalloc.start()
    with contextlib.suppress(CodecError):
        decode_prompt(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(message)


def test_oversized_claims_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt(1, 0, 8, {"prompt": "7" * 100})
    message = encode_prompt(prompt)
    with pytest.raises(CodecError, match="does not fit"):
        decode_group(struct.pack("<BBHI", 2, 2, 0, 2**32 - 1) + bytes(64))
    with monkeypatch.context() as patched:
        patched.setattr(frame, "MAX_HEADER_BYTES", 100)
        with pytest.raises(CodecError, match="exceeds"):
            encode_prompt(prompt)
        with pytest.raises(CodecError, match="does not fit"):
            decode_prompt(message)
    monkeypatch.setattr(frame, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(CodecError, match="exceeds"):
        encode_prompt(prompt)
    with pytest.raises(CodecError, match="bytes"):
        decode_group(bytes(1000))
