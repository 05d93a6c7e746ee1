import contextlib
import dataclasses
import struct
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from areal.broker import frame
from areal.broker.codec import decode_group, decode_prompt, encode_group, encode_prompt
from areal.broker.errors import CodecError
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=4),
    max_leaves=8,
)
rows = st.dictionaries(st.text("abc", max_size=3), json_values, max_size=4)
prompts = st.builds(Prompt, st.integers(0, 2**40), st.integers(-1, 2**31), st.integers(1, 64), rows)


@st.composite
def trajectories(draw: st.DrawFn) -> TokenTrajectory:
    length = draw(st.integers(2, 24))
    versions = np.array(draw(st.lists(st.sampled_from([-1, 0, 1, 7]), min_size=length, max_size=length)), np.int32)
    versions[0] = NOT_AN_ACTION
    versions[draw(st.integers(1, length - 1))] = draw(st.integers(0, 2**31 - 1))
    logprobs = np.array(draw(st.lists(st.floats(-50, 0, width=32), min_size=length, max_size=length)), np.float32)
    logprobs[versions == NOT_AN_ACTION] = 0
    tokens = np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length)), np.int32)
    reward = draw(st.floats(-1e6, 1e6))
    return TokenTrajectory(
        tokens, versions, logprobs, reward, {"sort": reward}, draw(st.sampled_from(["stop", "length"]))
    )


@st.composite
def images(draw: st.DrawFn) -> DenoisingTrajectory:
    num_actions = draw(st.integers(1, 4))
    shape = (num_actions + 1, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    dtype, width = draw(st.sampled_from([(np.float16, 16), (np.float32, 32)]))
    values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    size = int(np.prod(shape))
    latents = np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype).reshape(shape)
    timesteps = draw(st.lists(st.integers(0, 2**31 - 1), min_size=num_actions, max_size=num_actions))
    logprobs = draw(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=num_actions, max_size=num_actions))
    return DenoisingTrajectory(
        latents,
        np.array(timesteps, np.int32),
        np.array(logprobs, np.float32),
        version=draw(st.integers(0, 2**31 - 1)),
        condition=draw(rows),
        guidance=draw(st.floats(-100, 100)),
        seed=draw(st.integers(0, 2**64 - 1)),
        reward=draw(st.floats(-1e6, 1e6)),
        reward_parts=draw(st.dictionaries(st.text("ab", max_size=2), st.floats(-1e6, 1e6), max_size=2)),
    )


def groups_of(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Group[Any]]:
    return st.builds(
        Group,
        st.integers(0, 2**40),
        st.lists(kind, min_size=1, max_size=5).map(tuple),
        st.text("abc-0", max_size=8),
        st.floats(0, 2e9),
        st.floats(0, 2e9),
    )


def same(left: Group[Any], right: Group[Any]) -> bool:
    """Whether every field is equal, and of arrays the dtype and the bytes."""

    def flat(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape, value.tobytes()
        if isinstance(value, tuple):
            return [flat(inner) for inner in value]
        if dataclasses.is_dataclass(value):
            return [flat(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return value

    return type(left) is type(right) and bool(flat(left) == flat(right))


def group_of(num_trajectories: int = 2, given: int = 4, sampled: int = 8, spans: int = 2) -> Group[TokenTrajectory]:
    rng = np.random.default_rng(0)

    def one() -> TokenTrajectory:
        versions = np.concatenate(
            [np.full(given, NOT_AN_ACTION), np.sort(np.arange(sampled) * spans // max(1, sampled))]
        ).astype(np.int32)
        logprobs = np.where(versions >= 0, -rng.random(given + sampled), 0.0).astype(np.float32)
        tokens = rng.integers(0, 50_000, given + sampled).astype(np.int32)
        return TokenTrajectory(tokens, versions, logprobs, 0.5, {"sort": 0.5})

    return Group(3, tuple(one() for _ in range(num_trajectories)), "rollout-0", 1.0, 2.0)


def images_of(num_trajectories: int = 2, latent: tuple[int, ...] = (4, 2, 2)) -> Group[DenoisingTrajectory]:
    rng = np.random.default_rng(0)

    def one(seed: int) -> DenoisingTrajectory:
        return DenoisingTrajectory(
            rng.standard_normal((3, *latent)).astype(np.float16),
            np.array([999, 499], np.int32),
            np.array([-1234.5, 678.25], np.float32),
            version=3,
            condition={"prompt": "a cat"},
            guidance=8.0,
            seed=seed,
            reward=0.5,
            reward_parts={"jpeg": 0.5},
        )

    return Group(3, tuple(one(seed) for seed in range(num_trajectories)), "rollout-0", 1.0, 2.0)


def parts_of(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a message, to be put together again otherwise."""
    length = struct.unpack_from("<I", message, 4)[0]
    end = 8 + length
    return msgpack.unpackb(message[8:end]), message[end + -end % 8 :]


def framed(kind: int, packed: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", 2, kind, 0, len(packed)) + packed + bytes(-len(packed) % 8) + payload


def message_of(kind: int, header: Any, payload: bytes = b"") -> bytes:
    return framed(kind, msgpack.packb(header), payload)


def prompt_with(row: bytes) -> bytes:
    """A prompt whose row is this msgpack."""
    fields = b"\x85\xa6arrays\x90\xa2id\x01\xabmin_version\x00\xaagroup_size\x01\xa3row"
    return framed(1, fields + row)


def test_the_bytes_of_a_prompt() -> None:
    header = b"\x85\xa6arrays\x90\xa2id\x07\xabmin_version\xff\xaagroup_size\x08\xa3row\x81\xa1q\xa2hi"
    assert len(header) == 48
    message = b"\x02\x01\x00\x00\x30\x00\x00\x00" + header
    prompt = Prompt(7, -1, 8, {"q": "hi"})
    assert encode_prompt(prompt) == message
    assert decode_prompt(message) == prompt


def test_the_bytes_of_a_token_group() -> None:
    header = (
        b"\x86\xa6arrays\x94\x92\xa2i4\x91\x02\x92\xa2i4\x91\x05\x92\xa2f4\x91\x03\x92\xa2i4\x92\x04\x02"
        b"\xa9prompt_id\x05\xa6worker\xa1w"
        b"\xaastarted_at\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xabfinished_at\xcb\x40\x00\x00\x00\x00\x00\x00\x00"
        b"\xa7columns\x83"
        b"\xa6reward\x92\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xacreward_parts\x92\x81\xa1a\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x80"
        b"\xadfinish_reason\x92\xa4stop\xa6length"
    )
    arrays = (
        struct.pack("<2i", 3, 2)
        + struct.pack("<5i4x", 10, 11, 12, 10, 13)
        + struct.pack("<3f4x", -0.5, -1.5, -2.0)
        + struct.pack("<8i", -1, 1, 3, 2, -1, 1, 4, 1)
    )
    message = framed(2, header, arrays)
    first = TokenTrajectory(
        np.array([10, 11, 12], np.int32),
        np.array([-1, 3, 3], np.int32),
        np.array([0, -0.5, -1.5], np.float32),
        1.0,
        {"a": 1.0},
    )
    second = TokenTrajectory(
        np.array([10, 13], np.int32),
        np.array([-1, 4], np.int32),
        np.array([0, -2.0], np.float32),
        0.0,
        finish_reason="length",
    )
    group = Group(5, (first, second), "w", 1.0, 2.0)
    assert encode_group(group) == message
    assert same(decode_group(message), group)


def test_the_bytes_of_a_denoising_group() -> None:
    header = (
        b"\x86\xa6arrays\x93\x92\xa2f2\x92\x02\x03\x92\xa2i4\x91\x01\x92\xa2f4\x91\x01"
        b"\xa9prompt_id\x05\xa6worker\xa0"
        b"\xaastarted_at\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xabfinished_at\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xa7columns\x86"
        b"\xa6reward\x91\xcb\xbf\xe0\x00\x00\x00\x00\x00\x00\xacreward_parts\x91\x80"
        b"\xa7version\x91\x02\xa9condition\x91\x81\xa5class\x04"
        b"\xa8guidance\x91\xcb\x40\x20\x00\x00\x00\x00\x00\x00"
        b"\xa4seed\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
    )
    arrays = (
        bytes.fromhex("003c00c000380000ff7b0080 00000000") + struct.pack("<i4x", 999) + struct.pack("<f4x", -1234.5)
    )
    message = framed(3, header, arrays)
    group = Group(
        5,
        (
            DenoisingTrajectory(
                np.array([[1.0, -2.0, 0.5], [0.0, 65504.0, -0.0]], np.float16),
                np.array([999], np.int32),
                np.array([-1234.5], np.float32),
                version=2,
                condition={"class": 4},
                guidance=8.0,
                seed=2**64 - 1,
                reward=-0.5,
            ),
        ),
    )
    assert encode_group(group) == message
    assert same(decode_group(message), group)


@settings(max_examples=80, deadline=None)
@given(prompts)
def test_a_prompt_comes_back_as_it_was(prompt: Prompt) -> None:
    assert decode_prompt(encode_prompt(prompt)) == prompt


@settings(max_examples=80, deadline=None)
@given(groups_of(trajectories()) | groups_of(images()))
def test_a_group_comes_back_as_it_was(group: Group[Any]) -> None:
    assert same(decode_group(encode_group(group)), group)


def test_arrays_that_are_views_of_others_come_back_as_they_were() -> None:
    made = images_of().trajectories[0]
    strided = dataclasses.replace(
        made, latents=made.latents[::-1, ..., ::-1], timesteps=np.arange(9, dtype=np.int32)[::4][1:]
    )
    token = group_of(given=4, sampled=9).trajectories[0]
    fields = ("tokens", "versions", "behaviour_logprobs")
    every_other = dataclasses.replace(token, **{name: getattr(token, name)[::2] for name in fields})
    for trajectory in (strided, every_other):
        group: Group[Any] = Group(0, (trajectory,))
        assert same(decode_group(encode_group(group)), group)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda message: memoryview(bytearray(message))])
def test_tokens_and_latents_are_read_only_views_of_the_message(wrap: Any) -> None:
    for group, name in ((group_of(), "tokens"), (images_of(), "latents")):
        message = wrap(encode_group(group))
        whole: NDArray[np.uint8] = np.frombuffer(message, np.uint8)
        for trajectory in decode_group(message).trajectories:
            assert np.shares_memory(getattr(trajectory, name), whole)
            assert not getattr(trajectory, name).flags.writeable
            assert getattr(trajectory, name).flags.aligned


def test_decoding_takes_no_more_than_versions_and_logprobs() -> None:
    """Of tokens, 8 bytes of dense arrays for each; of latents, nothing that grows with them."""
    for group, most in (
        (group_of(4, given=100, sampled=20_000), 9 * 4 * 20_100),
        (images_of(4, (4, 64, 64)), 100_000),
    ):
        message = encode_group(group)
        tracemalloc.start()
        decoded = decode_group(message)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most + 50_000
        assert same(decoded, group)


def test_a_latent_costs_its_bytes() -> None:
    group = images_of(16, (4, 64, 64))
    assert len(encode_group(group)) < 16 * 3 * 4 * 64 * 64 * 2 + 16 * 200


def test_a_sampled_token_costs_at_most_nine_bytes() -> None:
    group = group_of(num_trajectories=16, given=1, sampled=512, spans=3)
    assert len(encode_group(group)) / (16 * 512) <= 9  # 8.14: id and log-probability, and a share of the header
    assert len(encode_group(group)) >= 8 * 16 * 512


def test_every_truncation_and_extension_raises_codec_error() -> None:
    for message, decode in (
        (encode_group(group_of()), decode_group),
        (encode_group(images_of()), decode_group),
        (encode_prompt(Prompt(1, 0, 8, {"prompt": "7391"})), decode_prompt),
    ):
        for damaged in [message[:end] for end in range(len(message))] + [message + bytes(n) for n in (1, 8, 4096)]:
            with pytest.raises(CodecError):
                decode(damaged)


@pytest.mark.parametrize(
    ("lengths", "spans"),
    [
        ([12, 13], None),
        ([24, 0], None),
        ([-1, 25], None),
        ([25, -1], None),
        ([2**31 - 1, 2**31 - 1], None),
        ([13, 11], None),
        (None, [-1, 4, 0, 4, 1, 4, -1, 4, 0, 4, 1, 5]),
        (None, [-1, 4, 0, 4, 1, 4, -1, 4, 0, 4, 1, 2**31 - 1]),
        (None, [-1, 4, 0, 4, 1, 4, -1, 4, 0, 8, 1, 0]),
        (None, [-1, 4, 0, 4, 1, 5, -1, 3, 0, 4, 1, 4]),
        (None, [-1, 4, 0, 4, -1, 4, -1, 4, 0, 4, 1, 4]),
        (None, [-1, 4, -1, 4, -1, 4, -1, 4, 0, 4, 1, 4]),
        (None, [-1, 4, 0, 4, 1, 4, 0, 4, 0, 4, -1, 4]),
        (None, [-1, 4, 0, 4, 1, 4, -2, 4, 0, 4, 1, 4]),
    ],
)
def test_lengths_and_spans_that_do_not_fit_the_tokens_are_refused(lengths: Any, spans: Any) -> None:
    header, payload = parts_of(encode_group(group_of()))
    assert struct.unpack_from("<2i", payload) == (12, 12)
    assert struct.unpack_from("<12i", payload, len(payload) - 48) == (-1, 4, 0, 4, 1, 4) * 2
    if lengths:
        payload = struct.pack("<2i", *lengths) + payload[8:]
    if spans:
        payload = payload[:-48] + struct.pack("<12i", *spans)
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, payload))


@pytest.mark.parametrize("where", ["tokens", "logprobs"])
@pytest.mark.parametrize(
    "bits", [0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0x3F80_0000, 0xFFFF_FFFF]
)
def test_a_token_or_log_probability_that_cannot_be_is_refused(where: str, bits: int) -> None:
    header, payload = parts_of(encode_group(group_of()))
    offset = 8 if where == "tokens" else 8 + 24 * 4
    damaged = payload[:offset] + struct.pack("<I", bits) + payload[offset + 4 :]
    if where == "tokens" and bits < 2**31:
        assert decode_group(message_of(2, header, damaged)).trajectories[0].tokens[0] == bits
        return
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, damaged))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0xFFFF])
def test_a_latent_that_is_not_finite_is_refused(bits: int) -> None:
    header, payload = parts_of(encode_group(images_of()))
    with pytest.raises(CodecError, match="latent is not finite"):
        decode_group(message_of(3, header, struct.pack("<H", bits) + payload[2:]))


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize(
    "entry",
    [
        ["i4", [2**40]],
        ["i4", [2**20, 2**20, 2**20, 2**20]],
        ["f2", [2**62, 2**62, 0]],
        ["i4", [0]],
        ["i4", [-1]],
        ["i4", [-1, -2]],
        ["i4", []],
        ["i4", [1] * 40],
        ["i4", ["4"]],
        ["i4", [True]],
        ["i4", [2.0]],
        ["i4", [[2]]],
        ["f4", [2]],
        ["f2", [4]],
        ["i4", [2], 0],
        ["i4"],
        ["O", [4]],
        ["i8", [1]],
        [["i4"], [4]],
        ["i4", 4],
        ["i4", {"4": 4}],
        "i4",
        None,
    ],
)
def test_an_array_out_of_bounds_is_refused(kind: int, entry: Any) -> None:
    header, payload = parts_of(encode_group(group_of() if kind == 2 else images_of()))
    header["arrays"][0] = entry
    with pytest.raises(CodecError):
        decode_group(message_of(kind, header, payload))


@pytest.mark.parametrize("arrays", [None, {}, "i4", 7, [], [[]], [["i4", [2]]]])
def test_another_table_of_arrays_is_refused(arrays: Any) -> None:
    for kind, group in ((2, group_of()), (3, images_of())):
        header, payload = parts_of(encode_group(group))
        with pytest.raises(CodecError):
            decode_group(message_of(kind, header | {"arrays": arrays}, payload))
    header, _ = parts_of(encode_prompt(Prompt(1, 0, 8, {})))
    with pytest.raises(CodecError, match="no arrays"):
        decode_prompt(message_of(1, header | {"arrays": [["i4", [2]]]}, bytes(8)))


def test_oversized_claims_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = encode_group(group_of())
    with pytest.raises(CodecError, match="does not fit"):
        decode_group(struct.pack("<BBHI", 2, 2, 0, 2**32 - 1) + bytes(64))
    with monkeypatch.context() as patched:
        patched.setattr(frame, "MAX_HEADER_BYTES", 100)
        with pytest.raises(CodecError, match="exceeds"):
            encode_prompt(Prompt(1, 0, 8, {"prompt": "7" * 100}))
        with pytest.raises(CodecError, match="does not fit"):
            decode_group(message)
    monkeypatch.setattr(frame, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(CodecError, match="exceeds"):
        encode_group(group_of())
    with pytest.raises(CodecError, match="bytes"):
        decode_group(bytes(1000))


@pytest.mark.parametrize("header", [None, [], 3, "x", {}, {"arrays": []}, {"arrays": [], "id": 1}, b"x"])
def test_a_header_of_another_shape_is_refused(header: Any) -> None:
    for kind, decode in ((1, decode_prompt), (2, decode_group), (3, decode_group)):
        with pytest.raises(CodecError):
            decode(message_of(kind, header))


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
        (b"\x81\xc4\x00\x01", "no string"),
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


def test_a_row_may_be_nested_as_deep_as_it_says() -> None:
    nested: Any = None
    for _ in range(63):
        nested = [nested]
    prompt = Prompt(1, 0, 8, {"a": nested})
    assert decode_prompt(encode_prompt(prompt)) == prompt
    with pytest.raises(CodecError, match="nested more than 64"):
        encode_prompt(Prompt(1, 0, 8, {"a": [nested]}))


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker", ["a"]),
        ("started_at", "now"),
        ("started_at", float("nan")),
        ("finished_at", None),
        ("prompt_id", -1),
        ("prompt_id", "1"),
        ("trajectories", []),
        ("extra", 1),
        ("columns", None),
        ("columns", []),
        ("columns", {}),
        ("columns", {"reward": [1.0, 0.0]}),
    ],
)
def test_a_group_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    for kind, group in ((2, group_of()), (3, images_of())):
        header, payload = parts_of(encode_group(group))
        with pytest.raises(CodecError):
            decode_group(message_of(kind, header | {field: value}, payload))


@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [
        (2, "reward", [float("nan"), 0.0]),
        (2, "reward", [0.0, float("-inf")]),
        (2, "reward", ["1", 0.0]),
        (2, "reward", [1.0]),
        (2, "reward", []),
        (2, "reward", "12"),
        (2, "reward", None),
        (2, "reward_parts", [{"sort": "high"}, {}]),
        (2, "reward_parts", [{"sort": None}, {}]),
        (2, "reward_parts", [{"sort": float("nan")}, {}]),
        (2, "reward_parts", [["sort"], {}]),
        (2, "finish_reason", ["stop", "tired"]),
        (2, "finish_reason", ["stop", ["stop"]]),
        (2, "tokens", [1, 2]),
        (2, "version", [1, 2]),
        (3, "reward", [float("nan"), 0.0]),
        (3, "version", [-1, 0]),
        (3, "version", [2**31, 0]),
        (3, "version", [0.5, 0]),
        (3, "guidance", [float("inf"), 0.0]),
        (3, "seed", [-1, 0]),
        (3, "condition", [[], {}]),
        (3, "condition", [{"a": b""}, {}]),
        (3, "latents", [1, 2]),
        (3, "finish_reason", ["stop", "stop"]),
    ],
)
def test_a_group_with_a_wrong_column_is_refused(kind: int, column: str, value: Any) -> None:
    header, payload = parts_of(encode_group(group_of() if kind == 2 else images_of()))
    header["columns"][column] = value
    with pytest.raises(CodecError):
        decode_group(message_of(kind, header, payload))


def test_a_group_is_of_at_most_4096_trajectories() -> None:
    token = group_of().trajectories[0]
    header, payload = parts_of(encode_group(Group(0, (token,) * 4096)))
    assert len(decode_group(message_of(2, header, payload)).trajectories) == 4096
    for column in header["columns"].values():
        column.append(column[0])
    with pytest.raises(CodecError, match="4097"):
        decode_group(message_of(2, header, payload))


def test_other_versions_and_kinds_are_named() -> None:
    message = bytearray(encode_prompt(Prompt(1, 0, 8, {})))
    with pytest.raises(CodecError, match="expected a token group or denoising group, got kind 1"):
        decode_group(bytes(message))
    with pytest.raises(CodecError, match="expected a prompt, got kind 3"):
        decode_prompt(encode_group(images_of()))
    message[2] = 1
    with pytest.raises(CodecError, match="bytes 2 and 3 are 0x0001, not zero"):
        decode_prompt(bytes(message))
    message[0] = 1
    with pytest.raises(CodecError, match="wire format 1, this is areal with format 2"):
        decode_prompt(bytes(message))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"raw", np.float32(1), 2**70, {1: 2}, (1, 2), "\ud800"])
def test_a_row_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        encode_prompt(Prompt(1, 0, 8, {"prompt": "7391", "column": [value]}))
    made = dataclasses.replace(images_of().trajectories[0], condition={"prompt": [value]})
    with pytest.raises(CodecError):
        encode_group(Group(0, (made,)))


def test_numbers_of_numpy_travel_as_numbers() -> None:
    token = dataclasses.replace(
        group_of().trajectories[0], reward=np.float32(0.5), reward_parts={"sort": np.float64(1)}
    )
    made = dataclasses.replace(images_of().trajectories[0], reward=np.float16(0.5), guidance=np.float32(2))
    assert decode_group(encode_group(Group(0, (token,)))).trajectories[0].reward_parts == {"sort": 1.0}
    assert decode_group(encode_group(Group(0, (made,)))).trajectories[0].guidance == 2.0


def test_what_redis_is_given_is_bytes() -> None:
    assert type(encode_group(group_of())) is bytes
    assert type(encode_group(images_of())) is bytes
    assert type(encode_prompt(Prompt(1, 0, 8, {}))) is bytes
