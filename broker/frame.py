"""The frame of every message: a header and arrays, which are written once and read where they lie.

    byte 0      FORMAT_VERSION
    byte 1      kind of message
    bytes 2-3   zero
    bytes 4-7   length of the header
    header      msgpack map; its "arrays" lists [dtype, shape] of what follows
    arrays      the bytes of each, in that order

Integers and arrays are little endian. The header and every array are padded with zeros to a multiple of 8, so that an
array's place follows from those before it, and the message ends with the last.

Every length is checked against the bytes that are there before anything is allocated: an array must lie within the
message, and the header is walked once without building anything, so that an array of msgpack that claims more elements
than there are bytes is refused before a list is made for it. A header then takes at most some 75 times its size.
"""

import struct
from collections.abc import Callable, Container, Sequence
from functools import wraps
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from .errors import CodecError
from .trajectory import MAX_DIMENSIONS

FORMAT_VERSION = 2
MAX_MESSAGE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
ALIGNMENT = 8
DTYPES: dict[str, np.dtype[Any]] = {
    "i4": np.dtype("<i4"),
    "f4": np.dtype("<f4"),
    "f2": np.dtype("<f2"),
    "u1": np.dtype("u1"),
}

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_PREAMBLE = struct.Struct("<BBHI")

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Message = bytes | bytearray | memoryview
Pieces = Sequence[NDArray[Any]]
"""An array in pieces, which are laid end to end along the first axis."""

REFUSALS = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, msgpack.UnpackException)


def refusing(what: str) -> Callable[[Callable[[Argument], Result]], Callable[[Argument], Result]]:
    """Has a function raise CodecError for whatever malformed input makes Python, numpy or msgpack raise."""

    def decorate(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
        @wraps(function)
        def guarded(argument: Argument) -> Result:
            try:
                return function(argument)
            except REFUSALS as error:
                raise CodecError(f"not a valid {what}: {type(error).__name__}: {error!s:.300}") from error

        return guarded

    return decorate


def pack(kind: int, header: dict[str, Any], arrays: Sequence[Pieces] = ()) -> bytes:
    """The message; the bytes of each array are copied once."""
    table: list[tuple[str, list[int]]] = []
    chunks: list[Any] = []
    for pieces in arrays:
        table.append((_CODES[pieces[0].dtype], [sum(map(len, pieces)), *pieces[0].shape[1:]]))
        chunks += map(np.ascontiguousarray, pieces)
        chunks.append(_padding(sum(piece.nbytes for piece in pieces)))
    packed = msgpack.packb({"arrays": table, **header})
    if len(packed) > MAX_HEADER_BYTES:
        raise CodecError(f"a header of {len(packed)} bytes exceeds {MAX_HEADER_BYTES}")
    preamble = _PREAMBLE.pack(FORMAT_VERSION, kind, 0, len(packed))
    message = b"".join([preamble, packed, _padding(len(packed)), *chunks])
    if len(message) > MAX_MESSAGE_BYTES:
        raise CodecError(f"a message of {len(message)} bytes exceeds {MAX_MESSAGE_BYTES}")
    return message


def unpack(message: Message, what: str, kinds: Container[int]) -> tuple[int, dict[str, Any], list[NDArray[Any]]]:
    """The kind, the header and the arrays (read-only views) of a message that must be a `what`, of one of `kinds`."""
    view = memoryview(message).toreadonly()
    if not _PREAMBLE.size <= len(view) <= MAX_MESSAGE_BYTES:
        raise CodecError(f"a message of {len(view)} bytes is not between {_PREAMBLE.size} and {MAX_MESSAGE_BYTES}")
    version, kind, reserved, header_bytes = _PREAMBLE.unpack_from(view)
    if version != FORMAT_VERSION:
        raise CodecError(f"wire format {version}, this is areal with format {FORMAT_VERSION}: upgrade the older side")
    if kind not in kinds:
        raise CodecError(f"expected a {what}, got kind {kind}")
    if reserved != 0:
        raise CodecError(f"bytes 2 and 3 are {reserved:#06x}, not zero")
    end = _PREAMBLE.size + header_bytes
    if header_bytes > MAX_HEADER_BYTES or _aligned(end) > len(view):
        raise CodecError(f"a header of {header_bytes} bytes does not fit a message of {len(view)}")
    header = _header(view[_PREAMBLE.size : end])
    return kind, header, _views(view[_aligned(end) :], header.pop("arrays"))


def _header(packed: memoryview) -> dict[str, Any]:
    walker = msgpack.Unpacker(max_buffer_size=len(packed) or 1)
    walker.feed(packed)
    walker.skip()
    header = msgpack.unpackb(packed, object_pairs_hook=_map_of, max_bin_len=0, max_ext_len=0)
    if not isinstance(header, dict):
        raise CodecError(f"the header is a {type(header).__name__}, not a map")
    return header


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The map; of keys that are no strings msgpack lets only b"" through, which is neither JSON nor the name of a field."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise CodecError("a map has a key twice")
    return made


def _views(payload: memoryview, table: list[Any]) -> list[NDArray[Any]]:
    arrays, offset = [], 0
    for code, shape in table:
        dtype = DTYPES[code]
        count = _num_elements(shape, limit=(len(payload) - offset) // dtype.itemsize)
        arrays.append(np.ndarray(shape, dtype, payload, offset))
        offset += _aligned(count * dtype.itemsize)
    if offset != len(payload):
        raise CodecError(f"the arrays take {offset} bytes and there are {len(payload)}")
    return arrays


def _num_elements(shape: Any, *, limit: int) -> int:
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise CodecError(f"an array has the shape {shape!r:.200}")
    count = 1
    for length in shape:
        if type(length) is not int or not 1 <= length <= limit // count:
            raise CodecError(f"an array of shape {shape!r:.200} does not fit the {limit} elements that are left")
        count *= length
    return count


def _aligned(num_bytes: int) -> int:
    return num_bytes + -num_bytes % ALIGNMENT


def _padding(num_bytes: int) -> bytes:
    return bytes(-num_bytes % ALIGNMENT)
