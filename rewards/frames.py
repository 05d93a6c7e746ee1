"""The wire between the pool and its processes: msgpack behind a length (uint32, little endian). Never pickle.

to a process    [[name, kwargs], …]                             once: the functions
                [call, index, prompt, completion, row]          a call of the function at that index
from it         [0, READY | CONFIG | ERROR, text]               once: the functions are loaded, or not
                [call, VALUE | ERROR, value or traceback]       for each call, in the order of the calls
"""

import struct
from typing import Any

import msgpack

from ..broker.errors import RewardError

MAX_FRAME_BYTES = 64 * 2**20
HEADER = struct.Struct("<I")
READY, CONFIG, VALUE, ERROR = "ready", "config", "value", "error"


def pack(message: Any) -> bytes:
    """The message as a frame; raises RewardError if it holds anything but JSON values, or too much."""
    try:
        # Half of a surrogate pair, as a tokenizer can produce, has to reach the function as it is.
        body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RewardError(f"a value cannot be sent to or from a reward process: {error}") from error
    if len(body) > MAX_FRAME_BYTES:
        raise RewardError(f"a message of {len(body)} bytes to or from a reward process exceeds {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


def length(header: bytes) -> int:
    """How many bytes follow this header."""
    size: int = HEADER.unpack(header)[0]
    if size > MAX_FRAME_BYTES:
        raise RewardError(f"a frame announces {size} bytes, more than {MAX_FRAME_BYTES}")
    return size


def unpack(body: bytes) -> Any:
    """The message in a frame's body."""
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False)
    except Exception as error:  # msgpack raises a dozen types, none of them ours
        raise RewardError(f"a frame is not msgpack: {error}") from error
