"""The wire format: a prompt or a group to bytes and back, without pickle and without copying what is read.

    byte 0      format version
    byte 1      kind of message (prompt, group)
    bytes 2-7   length of the header (uint32, little endian), two zero bytes
    header      msgpack; an array in it is [dtype, shape, offset] into the payload
    payload     the arrays' bytes, each aligned to 8

A group costs 8 bytes for a sampled token (id and log-probability), 4 for a given one, and 8 for each span of equal
version. Every length is checked against the message's own before anything is allocated.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from .errors import CodecError
from .trajectory import NOT_AN_ACTION, Group, Prompt, TokenTrajectory

FORMAT_VERSION = 1
MAX_MESSAGE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
ALIGNMENT = 8
DTYPES = {"i4": np.dtype("<i4"), "f4": np.dtype("<f4")}

T = TypeVar("T")
_PROMPT, _GROUP = 1, 2
_PREAMBLE = struct.Struct("<BBIxx")


def encode_prompt(prompt: Prompt) -> bytes:
    """Bytes of a prompt; raises CodecError if its row holds anything but JSON values."""
    if not _is_json(prompt.row):
        raise CodecError(f"the row of prompt {prompt.id} holds more than JSON values")
    header = {"id": prompt.id, "min_version": prompt.min_version, "group_size": prompt.group_size, "row": prompt.row}
    return _pack(_PROMPT, header, {})


def decode_prompt(message: bytes | memoryview) -> Prompt:
    """The prompt in `message`; raises CodecError on anything else."""
    return _decode(message, _PROMPT, lambda header, _: Prompt(**header))


def encode_group(group: Group) -> bytes:
    """Bytes of a group."""
    trajectories = group.trajectories
    spans = [_spans(t.versions) for t in trajectories]
    header = {
        "prompt_id": group.prompt_id,
        "worker": group.worker,
        "started_at": group.started_at,
        "finished_at": group.finished_at,
        "lengths": [len(t.tokens) for t in trajectories],
        "num_spans": [len(s) for s in spans],
        "rewards": [float(t.reward) for t in trajectories],
        "reward_parts": [dict(t.reward_parts) for t in trajectories],
        "finish_reasons": [t.finish_reason for t in trajectories],
    }
    arrays = {
        "tokens": np.concatenate([t.tokens for t in trajectories]),
        "logprobs": np.concatenate([t.behaviour_logprobs[t.action_mask] for t in trajectories]),
        "spans": np.concatenate(spans),
    }
    return _pack(_GROUP, header, arrays)


def decode_group(message: bytes | memoryview) -> Group:
    """The group in `message`, its tokens a read-only view of those bytes; raises CodecError on anything else."""
    return _decode(message, _GROUP, _group_of)


def _pack(kind: int, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    chunks, offset, table = [], 0, {}
    for name, array in arrays.items():
        code = next(code for code, dtype in DTYPES.items() if dtype == array.dtype)
        padding = -array.nbytes % ALIGNMENT
        table[name] = [code, list(array.shape), offset]
        chunks += [array.tobytes(), bytes(padding)]
        offset += array.nbytes + padding
    try:
        packed = msgpack.packb({"arrays": table, **header})
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"a {_name(kind)} holds a value that has no wire form: {error}") from error
    packed += bytes(-len(packed) % ALIGNMENT)
    if len(packed) > MAX_HEADER_BYTES or offset + len(packed) > MAX_MESSAGE_BYTES:
        raise CodecError(f"a {_name(kind)} of {offset + len(packed)} bytes exceeds {MAX_MESSAGE_BYTES}")
    return b"".join([_PREAMBLE.pack(FORMAT_VERSION, kind, len(packed)), packed, *chunks])


def _decode(message: bytes | memoryview, kind: int, build: Callable[[dict[str, Any], dict[str, NDArray[Any]]], T]) -> T:
    try:
        return build(*_unpack(message, kind))
    except CodecError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        struct.error,
        RecursionError,
    ) as error:
        raise CodecError(f"not a valid {_name(kind)}: {error}") from error


def _unpack(message: bytes | memoryview, kind: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if not _PREAMBLE.size <= len(message) <= MAX_MESSAGE_BYTES + _PREAMBLE.size:
        raise CodecError(f"a message of {len(message)} bytes is not between {_PREAMBLE.size} and {MAX_MESSAGE_BYTES}")
    version, found, header_bytes = _PREAMBLE.unpack_from(message)
    if version != FORMAT_VERSION:
        raise CodecError(f"wire format {version}, this is areal with format {FORMAT_VERSION}: upgrade the older side")
    if found != kind:
        raise CodecError(f"expected a {_name(kind)}, got kind {found}")
    start = _PREAMBLE.size + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start > len(message):
        raise CodecError(f"a header of {header_bytes} bytes does not fit a message of {len(message)}")
    unpacker = msgpack.Unpacker(max_buffer_size=header_bytes or 1, strict_map_key=True)
    unpacker.feed(memoryview(message)[_PREAMBLE.size : start])
    try:
        header = unpacker.unpack()
    except Exception as error:  # msgpack raises a dozen types, none of them ours
        raise CodecError(f"the header of a {_name(kind)} is not msgpack: {error}") from error
    payload = memoryview(message)[start:]
    return header, {name: _view(payload, *entry) for name, entry in header.pop("arrays").items()}


def _view(payload: memoryview, code: str, shape: list[int], offset: int) -> NDArray[Any]:
    dtype = DTYPES[code]
    if not 1 <= len(shape) <= 8 or not all(
        isinstance(n, int) and 0 <= n <= MAX_MESSAGE_BYTES for n in [*shape, offset]
    ):
        raise CodecError(f"an array of shape {shape} at {offset} is out of bounds")
    count = 1
    for n in shape:
        count *= n
    if offset + count * dtype.itemsize > len(payload):
        raise CodecError(f"an array of shape {shape} at {offset} exceeds a payload of {len(payload)} bytes")
    return np.frombuffer(payload, dtype, count, offset).reshape(shape)


def _spans(versions: NDArray[np.int32]) -> NDArray[np.int32]:
    """Runs of equal version: int32[S, 2] of (version, length)."""
    starts = np.flatnonzero(np.diff(versions, prepend=np.int32(NOT_AN_ACTION - 1)))
    lengths = np.diff(starts, append=len(versions))
    return np.stack([versions[starts], lengths.astype(np.int32)], axis=1)


def _group_of(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Group:
    tokens, logprobs, spans = arrays["tokens"], arrays["logprobs"], arrays["spans"]
    columns = [header[name] for name in ("lengths", "num_spans", "rewards", "reward_parts", "finish_reasons")]
    if len({len(column) for column in columns}) != 1:
        raise CodecError("the columns of a group differ in length")
    if int(spans[:, 1].min(initial=1)) < 1 or int(spans[:, 1].sum(dtype=np.int64)) != len(tokens):
        raise CodecError("the version spans of a group do not cover its tokens")
    trajectories, token, span, logprob = [], 0, 0, 0
    for length, num_spans, reward, parts, finish_reason in zip(*columns, strict=True):
        versions = np.repeat(*spans[span : span + num_spans].T)
        if length != len(versions):
            raise CodecError(f"a trajectory of {length} tokens has versions for {len(versions)}")
        mask = versions != NOT_AN_ACTION
        filled = np.zeros(length, np.float32)
        num_actions = int(np.count_nonzero(mask))
        filled[mask] = logprobs[logprob : logprob + num_actions]
        trajectories.append(
            TokenTrajectory(tokens[token : token + length], versions, filled, reward, parts, finish_reason)
        )
        token, span, logprob = token + length, span + num_spans, logprob + num_actions
    if (token, span, logprob) != (len(tokens), len(spans), len(logprobs)):
        raise CodecError("a group has bytes left over")
    fields = {name: header[name] for name in ("prompt_id", "worker", "started_at", "finished_at")}
    return Group(trajectories=tuple(trajectories), **fields)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_json(inner) for inner in value)
    return value is None or isinstance(value, str | bool | int | float)


def _name(kind: int) -> str:
    return {_PROMPT: "prompt", _GROUP: "group"}[kind]
