import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from areal.broker import codec
from areal.broker.codec import decode_group, decode_prompt, encode_group, encode_prompt
from areal.broker.errors import CodecError
from areal.broker.trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory

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


groups = st.builds(
    Group,
    st.integers(0, 2**40),
    st.lists(trajectories(), min_size=1, max_size=5).map(tuple),
    st.text("abc-0", max_size=8),
    st.floats(0, 2e9),
    st.floats(0, 2e9),
)


def same(left: Group, right: Group) -> bool:
    def flat(group: Group) -> list[Any]:
        arrays = [[a.tolist() for a in (t.tokens, t.versions, t.behaviour_logprobs)] for t in group.trajectories]
        rest = [(t.reward, t.reward_parts, t.finish_reason) for t in group.trajectories]
        return [group.prompt_id, group.worker, group.started_at, group.finished_at, arrays, rest]

    return flat(left) == flat(right)


def group_of(num_trajectories: int = 2, given: int = 4, sampled: int = 8, spans: int = 2) -> Group:
    rng = np.random.default_rng(0)

    def one() -> TokenTrajectory:
        versions = np.concatenate(
            [np.full(given, NOT_AN_ACTION), np.sort(np.arange(sampled) * spans // max(1, sampled))]
        ).astype(np.int32)
        logprobs = np.where(versions >= 0, -rng.random(given + sampled), 0.0).astype(np.float32)
        tokens = rng.integers(0, 50_000, given + sampled).astype(np.int32)
        return TokenTrajectory(tokens, versions, logprobs, 0.5, {"sort": 0.5})

    return Group(3, tuple(one() for _ in range(num_trajectories)), "rollout-0", 1.0, 2.0)


def parts_of(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a message, to be put together again otherwise."""
    length = struct.unpack_from("<I", message, 2)[0]
    return msgpack.unpackb(message[8 : 8 + length].rstrip(b"\0") or b"\x80", strict_map_key=False), message[
        8 + length :
    ]


def message_of(kind: int, header: Any, payload: bytes = b"") -> bytes:
    packed = msgpack.packb(header)
    return struct.pack("<BBIxx", 1, kind, len(packed)) + packed + payload


@settings(max_examples=80, deadline=None)
@given(prompts)
def test_a_prompt_comes_back_as_it_was(prompt: Prompt) -> None:
    assert decode_prompt(encode_prompt(prompt)) == prompt


@settings(max_examples=80, deadline=None)
@given(groups)
def test_a_group_comes_back_as_it_was(group: Group) -> None:
    assert same(decode_group(encode_group(group)), group)


def test_tokens_are_a_view_of_the_message() -> None:
    message = encode_group(group_of())
    whole: NDArray[np.uint8] = np.frombuffer(message, np.uint8)
    for trajectory in decode_group(message).trajectories:
        assert np.shares_memory(trajectory.tokens, whole)
        assert not trajectory.tokens.flags.writeable


def test_a_sampled_token_costs_at_most_nine_bytes() -> None:
    group = group_of(num_trajectories=16, given=1, sampled=512, spans=3)
    assert len(encode_group(group)) / (16 * 512) <= 9  # 8.14: id and log-probability, and a share of the header
    assert len(encode_group(group)) >= 8 * 16 * 512


@pytest.mark.parametrize("seed", range(3))
def test_damaged_messages_raise_codec_error_or_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = [encode_group(group_of()), encode_prompt(Prompt(1, 0, 8, {"prompt": "7391", "answer": [1, None, 2.5]}))]
    refused = 0
    for trial in range(2000):
        message = bytearray(whole[trial % 2])
        for _ in range(rng.integers(1, 4)):
            message[rng.integers(0, len(message))] = rng.integers(0, 256)
        decode = decode_prompt if trial % 2 else decode_group
        try:
            decode(bytes(message))
        except CodecError:
            refused += 1
    assert refused > 1000


def test_every_truncation_raises_codec_error() -> None:
    for message, decode in (
        (encode_group(group_of()), decode_group),
        (encode_prompt(Prompt(1, 0, 8, {"prompt": "7391"})), decode_prompt),
    ):
        header = struct.unpack_from("<I", message, 2)[0]
        for end in range(len(message)):
            if decode is decode_prompt and not message[end:].strip(b"\0") and end >= 8 + header:
                continue
            with pytest.raises(CodecError):
                decode(message[:end])


def test_random_bytes_raise_codec_error() -> None:
    rng = np.random.default_rng(0)
    for trial in range(3000):
        noise = rng.bytes(int(rng.integers(0, 200)))
        if trial % 2:  # a preamble that holds, so that the noise is read as a header
            noise = struct.pack("<BBIxx", 1, 2, len(noise)) + noise
        for decode in (decode_group, decode_prompt):
            with pytest.raises(CodecError):
                decode(noise)


@pytest.mark.parametrize("length", [2**33, 2**40, 2**62, -1, 3, "x", None, 12.0])
def test_a_claimed_length_is_not_allocated(length: Any) -> None:
    header, payload = parts_of(encode_group(group_of()))
    header["lengths"][0] = length
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, payload))


@pytest.mark.parametrize(
    "entry",
    [
        ["i4", [2**40], 0],
        ["i4", [2**20, 2**20, 2**20, 2**20], 0],
        ["i4", [4], 2**40],
        ["i4", [-1], 0],
        ["i4", [], 0],
        ["i4", [1] * 40, 0],
        ["i4", ["4"], 0],
        ["O", [4], 0],
        ["i4", 4, 0],
        "i4",
        None,
    ],
)
def test_an_array_out_of_bounds_is_refused(entry: Any) -> None:
    header, payload = parts_of(encode_group(group_of()))
    header["arrays"]["tokens"] = entry
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, payload))


def test_oversized_claims_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodecError, match="does not fit"):
        decode_group(struct.pack("<BBIxx", 1, 2, 2**32 - 1) + bytes(64))
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(CodecError, match="exceeds"):
        encode_group(group_of())
    with pytest.raises(CodecError, match="bytes"):
        decode_group(bytes(1000))


@pytest.mark.parametrize("header", [None, [], 3, "x", {}, {"arrays": []}, {"arrays": {}, "id": 1}, b"x"])
def test_a_header_of_another_shape_is_refused(header: Any) -> None:
    for kind, decode in ((1, decode_prompt), (2, decode_group)):
        with pytest.raises(CodecError):
            decode(message_of(kind, header))


def test_a_deeply_nested_header_is_refused() -> None:
    nested = b"\x91" * 100_000 + b"\x01"
    with pytest.raises(CodecError):
        decode_prompt(struct.pack("<BBIxx", 1, 1, len(nested)) + nested)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker", ["a"]),
        ("started_at", "now"),
        ("prompt_id", -1),
        ("prompt_id", "1"),
        ("rewards", [float("nan"), 0.0]),
        ("rewards", ["1", 0.0]),
        ("rewards", [1.0]),
        ("reward_parts", [{"sort": "high"}, {}]),
        ("reward_parts", [{"sort": None}, {}]),
        ("reward_parts", [["sort"], {}]),
        ("finish_reasons", ["stop", "tired"]),
        ("num_spans", [1, 5]),
    ],
)
def test_a_group_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    header, payload = parts_of(encode_group(group_of()))
    header[field] = value
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, payload))


def test_other_versions_and_kinds_are_named() -> None:
    message = bytearray(encode_prompt(Prompt(1, 0, 8, {})))
    with pytest.raises(CodecError, match="expected a group, got kind 1"):
        decode_group(bytes(message))
    message[0] = 2
    with pytest.raises(CodecError, match="wire format 2, this is areal with format 1"):
        decode_prompt(bytes(message))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"raw", np.float32(1), 2**70, {1: 2}, (1, 2), "\ud800"])
def test_a_row_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        encode_prompt(Prompt(1, 0, 8, {"prompt": "7391", "column": [value]}))
