"""The wire format, written out by hand: what changes a byte here changes FORMAT_VERSION."""

import struct

import numpy as np

from areal.broker.codec import decode_group, decode_prompt, encode_group, encode_prompt
from areal.broker.trajectory import DenoisingTrajectory, Group, Prompt, TokenTrajectory


def framed(kind: int, packed: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", 2, kind, 0, len(packed)) + packed + bytes(-len(packed) % 8) + payload


def test_the_bytes_of_a_prompt() -> None:
    header = b"\x85\xa6arrays\x90\xa2id\x07\xabmin_version\xff\xaagroup_size\x08\xa3row\x81\xa1q\xa2hi"
    assert len(header) == 48
    message = b"\x02\x01\x00\x00\x30\x00\x00\x00" + header
    prompt = Prompt(7, -1, 8, {"q": "hi"})
    assert encode_prompt(prompt) == message
    assert decode_prompt(message) == prompt


def test_the_bytes_of_a_token_group() -> None:
    header = (
        b"\x86\xa6arrays\x93\x92\xa2i4\x91\x05\x92\xa2f4\x91\x03\x92\xa2i4\x92\x02\x04"
        b"\xa9prompt_id\x05\xa6worker\xa1w"
        b"\xaastarted_at\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xabfinished_at\xcb\x40\x00\x00\x00\x00\x00\x00\x00"
        b"\xa7columns\x83"
        b"\xa6reward\x92\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xacreward_parts\x92\x81\xa1a\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x80"
        b"\xadfinish_reason\x92\xa4stop\xa6length"
    )
    arrays = (
        struct.pack("<5i4x", 10, 11, 12, 10, 13)
        + struct.pack("<3f4x", -0.5, -1.5, -2.0)
        + struct.pack("<8i", -2, 3, -2, 4, 1, 2, 1, 1)
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
    assert encode_group(Group(5, (first, second), "w", 1.0, 2.0)) == message
    decoded = decode_group(message)
    assert (decoded.prompt_id, decoded.worker, decoded.started_at, decoded.finished_at) == (5, "w", 1.0, 2.0)
    assert [t.tokens.tolist() for t in decoded.trajectories] == [[10, 11, 12], [10, 13]]
    assert [t.versions.tolist() for t in decoded.trajectories] == [[-1, 3, 3], [-1, 4]]
    assert [t.behaviour_logprobs.tolist() for t in decoded.trajectories] == [[0, -0.5, -1.5], [0, -2]]
    assert [t.reward for t in decoded.trajectories] == [1.0, 0.0]
    assert [t.reward_parts for t in decoded.trajectories] == [{"a": 1.0}, {}]
    assert [t.finish_reason for t in decoded.trajectories] == ["stop", "length"]


def test_the_bytes_of_a_denoising_group() -> None:
    header = (
        b"\x86\xa6arrays\x93\x92\xa2f2\x92\x02\x03\x92\xa2i4\x91\x02\x92\xa2f4\x91\x01"
        b"\xa9prompt_id\x05\xa6worker\xa0"
        b"\xaastarted_at\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xabfinished_at\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xa7columns\x86"
        b"\xa6reward\x91\xcb\xbf\xe0\x00\x00\x00\x00\x00\x00\xacreward_parts\x91\x80"
        b"\xa7version\x91\x02\xa9condition\x91\x81\xa5class\x04"
        b"\xa8guidance\x91\xcb\x40\x20\x00\x00\x00\x00\x00\x00"
        b"\xa4seed\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
    )
    arrays = (
        bytes.fromhex("003c00c000380000ff7b0080 00000000") + struct.pack("<2i", 999, 499) + struct.pack("<f4x", -1234.5)
    )
    message = framed(3, header, arrays)
    group = Group(
        5,
        (
            DenoisingTrajectory(
                np.array([[1.0, -2.0, 0.5], [0.0, 65504.0, -0.0]], np.float16),
                np.array([999, 499], np.int32),
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
    (decoded,) = decode_group(message).trajectories
    assert decoded.latents.dtype == np.float16
    assert decoded.latents.tolist() == [[1.0, -2.0, 0.5], [0.0, 65504.0, -0.0]]
    assert (decoded.timesteps.tolist(), decoded.behaviour_logprobs.tolist()) == ([999, 499], [-1234.5])
    assert (decoded.version, decoded.condition, decoded.seed) == (2, {"class": 4}, 2**64 - 1)
    assert (decoded.guidance, decoded.reward, decoded.reward_parts) == (8.0, -0.5, {})
