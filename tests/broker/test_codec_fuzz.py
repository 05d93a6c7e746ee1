"""Messages that are damaged, forged or noise: each decodes to something valid or raises CodecError, and nothing else.

AREAL_FUZZ messages are tried (4,000 unless set; `make fuzz` tries many more), made from AREAL_FUZZ_SEED (0 unless set).
"""

import dataclasses
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from areal.broker.codec import decode_group, decode_prompt, encode_group, encode_prompt
from areal.broker.errors import CodecError
from areal.broker.trajectory import NOT_AN_ACTION, DenoisingTrajectory, Group, Prompt, TokenTrajectory

NUM_MESSAGES = int(os.environ.get("AREAL_FUZZ", "4000"))
SEED = int(os.environ.get("AREAL_FUZZ_SEED", "0"))
MAX_PEAK_BYTES = 65_536
MAX_PEAK_PER_BYTE = 100
MAX_CPU_S = 0.5

INTEGERS = [
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    4096,
    4097,
    2**15,
    2**20,
    2**28,
    2**31 - 1,
    -(2**31),
    2**32,
    2**63,
    -(2**63),
    2**64 - 1,
]
FLOATS = [0.0, -0.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e39, -1e308, 5e-324]
STRINGS = ["", "a", "stop", "length", "i4", "f4", "f2", "f8", "O", "prompt", "tokens", "latents", "é", "\0", "a" * 300]
RAW = [
    b"\xc1",  # never used in msgpack
    b"\xa2\xff\xfe",  # invalid UTF-8
    b"\xa3\xed\xa0\x80",  # a surrogate
    b"\xdb\xff\xff\xff\xff",  # lengths that are not there
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\x00\x00\x10\x00" * 1000,
    b"\xdf\x00\x00\x10\x00\xa1a" * 300,
    b"\x91" * 70 + b"\xc0",
    b"\x91" * 600 + b"\xc0",
    b"\x91" * 1000 + b"\xc0",
    b"\x91" * 3000 + b"\xc0",
    b"\x81\xa1a" * 3000 + b"\xc0",
    b"\xc4\x00",  # bin
    b"\xc4\x02ab",
    b"\xd4\x05a",  # ext
    b"\xc7\x00\x05",
    b"\xd6\xff\x00\x00\x00\x01",  # timestamps
    b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\x82\xa1a\x01\xa1a\x02",  # a key twice
    b"\x81\x01\x02",  # keys that are no strings
    b"\x81\xc0\x02",
    b"\x81\x90\x02",
    b"\x81\xc4\x01a\x02",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xca\x7f\xc0\x00\x00",
]


def tokens_of(versions: list[int], rng: np.random.Generator) -> TokenTrajectory:
    made = np.array([NOT_AN_ACTION, *versions], np.int32)
    logprobs = np.where(made >= 0, -rng.random(len(made)), 0).astype(np.float32)
    tokens = rng.integers(0, 50_000, len(made)).astype(np.int32)
    return TokenTrajectory(tokens, made, logprobs, float(rng.normal()), {"sort": 0.5, "length": 1.0}, "length")


def image_of(shape: tuple[int, ...], dtype: type[np.floating[Any]], rng: np.random.Generator) -> DenoisingTrajectory:
    actions = shape[0] - 1
    return DenoisingTrajectory(
        rng.standard_normal(shape).astype(dtype),
        np.arange(999, 0, -100, dtype=np.int32)[: shape[0]],
        (1e4 * rng.standard_normal(actions)).astype(np.float32),
        version=3,
        condition={"prompt": "a cat", "class": 4, "words": ["a", None, {"b": 2.5}]},
        guidance=8.0,
        seed=2**63,
        reward=float(rng.normal()),
        reward_parts={"jpeg": -1.5},
    )


def shade(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)


def valid_messages() -> list[bytes]:
    rng = np.random.default_rng(0)
    answers = tuple(tokens_of([-1] * 5 + [3] * 20 + [4] * 10, rng) for _ in range(4))
    turns = tuple(tokens_of([0, -1, 1, 1, -1, -1, 2, -1] * 3, rng) for _ in range(2))
    seen = tuple(dataclasses.replace(image_of((3, 4), np.float16, rng), picture=shade(rng)) for _ in range(2))
    halves = tuple(image_of((4, 2, 3, 3), np.float16, rng) for _ in range(3))
    singles = (image_of((2, 5), np.float32, rng), image_of((3, 1), np.float16, rng))
    groups: list[Group[Any]] = [
        Group(3, answers, "rollout-0", 1.75e9, 1.75e9 + 1),
        Group(2**40, turns),
        Group(4, halves, "rollout-1", 1.0, 2.0),
        Group(5, singles),
        Group(6, seen),
    ]
    prompts = [
        Prompt(1, 0, 8, {"prompt": "7391", "answer": [1, None, 2.5], "meta": {"a": {"b": [True]}}}),
        Prompt(2**50, -1, 1, {}),
    ]
    return [encode_group(group) for group in groups] + [encode_prompt(prompt) for prompt in prompts]


VALID = valid_messages()


def framed(kind: int, packed: bytes, payload: bytes) -> bytes:
    return struct.pack("<BBHI", 2, kind, 0, len(packed)) + packed + bytes(-len(packed) % 8) + payload


def taken_apart(message: bytes) -> tuple[int, bytes, bytes]:
    """Kind, header and payload of a valid message."""
    end = 8 + struct.unpack_from("<I", message, 4)[0]
    return message[1], message[8:end], message[end + -end % 8 :]


def packed_value(rng: random.Random, depth: int = 3) -> bytes:
    """msgpack of anything, or nearly msgpack."""
    choice = rng.randrange(8 if depth else 5)
    if choice == 0:
        return bytes(msgpack.packb(rng.choice(INTEGERS)))
    if choice == 1:
        return bytes(msgpack.packb(rng.choice(FLOATS)))
    if choice == 2:
        return bytes(msgpack.packb(rng.choice(STRINGS)))
    if choice == 3:
        return bytes(msgpack.packb(rng.choice([None, True, False, [], {}])))
    if choice == 4:
        return rng.choice(RAW)
    count = rng.choice([0, 1, 2, 3, 15])
    items = [packed_value(rng, depth - 1) for _ in range(count)]
    if choice == 5:
        keys = [bytes(msgpack.packb(rng.choice(STRINGS))) for _ in range(count)]
        return bytes([0x80 | count]) + b"".join(key + item for key, item in zip(keys, items, strict=True))
    return bytes([0x90 | count]) + b"".join(items)


def packed_otherwise(value: Any, rng: random.Random, rate: float) -> bytes:
    """msgpack of a header in which each part is replaced at this rate, dropped or doubled at a third of it."""
    if rng.random() < rate:
        return packed_value(rng)
    if isinstance(value, dict):
        items = [msgpack.packb(key) + packed_otherwise(inner, rng, rate) for key, inner in value.items()]
    elif isinstance(value, list):
        items = [packed_otherwise(inner, rng, rate) for inner in value]
    elif type(value) is int and rng.random() < rate:
        return bytes(msgpack.packb(value + rng.choice([-1, 1, 2, -2, 8])))
    else:
        return bytes(msgpack.packb(value))
    kept = [item for item in items for _ in range(rng.choice([0, 2]) if rng.random() < rate / 3 else 1)]
    lead = 0xDF if isinstance(value, dict) else 0xDD
    return struct.pack(">BI", lead, len(kept)) + b"".join(kept)


def flip_bits(message: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(message)
    for _ in range(rng.choice([1, 1, 2, 8])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def splice(message: bytes, rng: random.Random) -> bytes:
    other = rng.choice(VALID)
    start, length = rng.randrange(len(other)), rng.choice([1, 4, 8, 40, 400])
    place = rng.randrange(len(message))
    resume = place if rng.random() < 0.5 else place + length
    return message[:place] + other[start : start + length] + message[resume:]


def truncate(message: bytes, rng: random.Random) -> bytes:
    return message[: rng.randrange(len(message))]


def extend(message: bytes, rng: random.Random) -> bytes:
    return message + rng.choice([bytes(8), bytes(4096), message, rng.randbytes(rng.randrange(1, 64))])


def claim_header(message: bytes, rng: random.Random) -> bytes:
    length = struct.unpack_from("<I", message, 4)[0]
    claimed = rng.choice([length - 1, length + 1, length + 8, 0, 1, len(message), 2**22, 2**22 + 1, 2**31, 2**32 - 1])
    return message[:4] + struct.pack("<I", claimed % 2**32) + message[8:]


def set_words(message: bytes, rng: random.Random) -> bytes:
    """Other numbers in the arrays: lengths, spans, timesteps, log-probabilities."""
    kind, header, payload = taken_apart(message)
    damaged = bytearray(payload)
    for _ in range(rng.choice([1, 2, 2, 4]) if payload else 0):
        word = rng.choice(
            [rng.choice(INTEGERS) % 2**32, rng.randrange(8), rng.choice([0x7F800000, 0x7FC00000, 0x7C007C00])]
        )
        struct.pack_into("<I", damaged, 4 * rng.randrange(len(damaged) // 4), word)
    return framed(kind, header, bytes(damaged))


def repack(message: bytes, rng: random.Random) -> bytes:
    kind, header, payload = taken_apart(message)
    return framed(kind, packed_otherwise(msgpack.unpackb(header), rng, rng.choice([0.005, 0.02, 0.1])), payload)


def forge(message: bytes, rng: random.Random) -> bytes:
    return framed(rng.choice([1, 2, 3]), packed_value(rng, 5), taken_apart(message)[2])


def noise(message: bytes, rng: random.Random) -> bytes:
    drawn = rng.randbytes(rng.randrange(200))
    return drawn if rng.random() < 0.5 else framed(rng.choice([1, 2, 3]), drawn, rng.randbytes(8 * rng.randrange(8)))


FIRST = [flip_bits, splice, truncate, extend, claim_header, set_words, set_words, repack, repack, repack, forge, noise]
SECOND = [flip_bits, splice, truncate, extend]


def drawn_message(trial: int) -> bytes:
    """The message of a trial, the same on every machine."""
    rng = random.Random(f"{SEED} {trial}")
    message = rng.choice(FIRST)(rng.choice(VALID), rng)
    while message and rng.random() < 0.2:
        message = rng.choice(SECOND)(message, rng)
    return message


def decoded(message: bytes) -> Iterator[Prompt | Group[Any]]:
    for decode in (decode_prompt, decode_group):
        try:
            yield decode(message)
        except CodecError:
            continue


def require_valid(found: Prompt | Group[Any]) -> None:
    """What was decoded passes its own constructors in full, and its bytes decode to the same."""
    dataclasses.replace(found)
    if isinstance(found, Prompt):
        again = encode_prompt(found)
        assert encode_prompt(decode_prompt(again)) == again
        return
    for trajectory in found.trajectories:
        dataclasses.replace(trajectory)
    again = encode_group(found)
    assert encode_group(decode_group(again)) == again


def try_message(message: bytes) -> int:
    """Decode within the bounds of memory and time; returns whether anything came out."""
    tracemalloc.reset_peak()
    before, began_s = tracemalloc.get_traced_memory()[0], time.thread_time()
    found = list(decoded(message))
    spent_s, peak = time.thread_time() - began_s, tracemalloc.get_traced_memory()[1] - before
    assert peak <= MAX_PEAK_BYTES + MAX_PEAK_PER_BYTE * len(message), f"{peak} bytes were allocated"
    assert spent_s <= MAX_CPU_S, f"{spent_s:.2f} s went by"
    for one in found:
        require_valid(one)
    return len(found)


def test_whatever_comes_is_valid_or_refused() -> None:
    num_valid = 0
    tracemalloc.start()
    try:
        for trial in range(NUM_MESSAGES):
            message = drawn_message(trial)
            try:
                num_valid += try_message(message)
            except Exception as error:
                pytest.fail(f"AREAL_FUZZ_SEED={SEED}, trial {trial}: {error!r} from the message {message.hex()}")
    finally:
        tracemalloc.stop()
    assert 0.05 * NUM_MESSAGES < num_valid < 0.5 * NUM_MESSAGES  # neither all refused at the door nor hardly damaged


def test_a_trial_can_be_repeated() -> None:
    assert [drawn_message(trial) for trial in range(100)] == [drawn_message(trial) for trial in range(100)]
