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
def images(draw: st.DrawFn, *, seen: bool = False) -> DenoisingTrajectory:
    num_actions = draw(st.integers(1, 4))
    shape = (num_actions + 1, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    dtype, width = draw(st.sampled_from([(np.float16, 16), (np.float32, 32)]))
    values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    size = int(np.prod(shape))
    latents = np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype).reshape(shape)
    timesteps = draw(st.lists(st.integers(0, 2**31 - 1), min_size=num_actions + 1, max_size=num_actions + 1))
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
        picture=draw(pictures()) if seen else None,
    )


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *draw(st.sampled_from([(), (3,)])))
    return np.frombuffer(draw(st.binary(min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), np.uint8).reshape(
        shape
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
            np.array([999, 666, 333], np.int32),
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


@settings(max_examples=80, deadline=None)
@given(prompts)
def test_a_prompt_comes_back_as_it_was(prompt: Prompt) -> None:
    assert decode_prompt(encode_prompt(prompt)) == prompt


@settings(max_examples=80, deadline=None)
@given(groups_of(trajectories()) | groups_of(images()) | groups_of(images(seen=True)))
def test_a_group_comes_back_as_it_was(group: Group[Any]) -> None:
    assert same(decode_group(encode_group(group)), group)


def test_of_a_group_all_images_are_seen_or_none() -> None:
    one, other = images_of().trajectories
    seen = dataclasses.replace(one, picture=np.zeros((2, 2), np.uint8))
    with pytest.raises(CodecError, match="some images of a group have a picture, and others none"):
        encode_group(Group(3, (seen, other)))


def test_arrays_that_are_views_of_others_come_back_as_they_were() -> None:
    made = images_of().trajectories[0]
    strided = dataclasses.replace(
        made, latents=made.latents[::-1, ..., ::-1], timesteps=np.arange(9, dtype=np.int32)[::4]
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


def test_a_group_of_the_most_trajectories_fits_the_header() -> None:
    parts = {f"reward-{number}": 0.5 for number in range(10)}
    token = dataclasses.replace(group_of().trajectories[0], reward_parts=parts)
    assert len(parts_of(encode_group(Group(0, (token,) * 4096)))[0]["columns"]["reward"]) == 4096


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
    "spans",
    [
        [[-2, 0, 1, -2, 0, 1], [4, 4, 4, 4, 4, 5]],
        [[-2, 0, 1, -2, 0, 1], [4, 4, 4, 4, 4, 2**31 - 1]],
        [[-2, 0, 1, -2, 0, 1], [4, 4, 4, 4, 8, 0]],
        [[-2, 0, 1, -2, 0, 1], [4, 4, 4, 4, 9, -1]],
        [[-2, 0, 1, -2, 0, 1], [5, 3, 4, 5, 4, 4]],
        [[-2, 0, -1, -2, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[-2, 0, 1, -1, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[-2, 0, -2, -2, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[-2, 0, 1, 0, 0, -2], [4, 4, 4, 4, 4, 4]],
        [[-2, -2, 1, -2, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[0, -2, 1, -2, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[-1, 0, 1, -2, 0, 1], [4, 4, 4, 4, 4, 4]],
        [[-2, 0, 1, -3, 0, 1], [4, 4, 4, 4, 4, 4]],
    ],
)
def test_spans_that_do_not_fit_the_tokens_are_refused(spans: list[list[int]]) -> None:
    header, payload = parts_of(encode_group(group_of()))
    assert struct.unpack_from("<12i", payload, len(payload) - 48) == (-2, 0, 1) * 2 + (4,) * 6
    with pytest.raises(CodecError):
        decode_group(message_of(2, header, payload[:-48] + np.array(spans, np.int32).tobytes()))


def test_a_trajectory_without_an_action_is_refused() -> None:
    header, payload = parts_of(encode_group(group_of()))
    spans = struct.pack("<12i", -2, 0, 1, -2, -1, -1, *(4,) * 6)
    header["arrays"][1] = ["f4", [8]]
    with pytest.raises(CodecError, match="there is no action"):
        decode_group(message_of(2, header, payload[: 24 * 4 + 8 * 4] + spans))


@pytest.mark.parametrize("count", [1, 15, 17])
def test_too_few_or_too_many_log_probabilities_are_refused(count: int) -> None:
    header, payload = parts_of(encode_group(group_of()))
    header["arrays"][1] = ["f4", [count]]
    logprobs = struct.pack(f"<{count + count % 2}f", *[-1.0] * count, *[0.0] * (count % 2))
    with pytest.raises(CodecError, match=f"{count} log-probabilities for 16 actions"):
        decode_group(message_of(2, header, payload[: 24 * 4] + logprobs + payload[-48:]))


@pytest.mark.parametrize("where", ["tokens", "logprobs"])
@pytest.mark.parametrize(
    "bits", [0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0x3F80_0000, 0xFFFF_FFFF]
)
def test_a_token_or_log_probability_that_cannot_be_is_refused(where: str, bits: int) -> None:
    header, payload = parts_of(encode_group(group_of()))
    offset = 0 if where == "tokens" else 24 * 4
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
        ["f2", [3, 4, 2, 2, True]],
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


@pytest.mark.parametrize("header", [None, [], 3, "x", {}, {"arrays": []}, {"arrays": [], "id": 1}, b"x"])
def test_a_header_of_another_shape_is_refused(header: Any) -> None:
    for kind, decode in ((1, decode_prompt), (2, decode_group), (3, decode_group)):
        with pytest.raises(CodecError):
            decode(message_of(kind, header))


def test_a_row_may_be_nested_as_deep_as_it_says() -> None:
    nested: Any = None
    for _ in range(63):
        nested = [nested]
    prompt = Prompt(1, 0, 8, {"a": nested})
    assert decode_prompt(encode_prompt(prompt)) == prompt
    with pytest.raises(CodecError, match="nested more than 64"):
        encode_prompt(Prompt(1, 0, 8, {"a": [nested]}))


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
    with pytest.raises(CodecError, match="expected a group, got kind 1"):
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
