"""The wire between the pool and its processes: msgpack behind a length (uint32, little endian). Never pickle.

to a process    [timeout_s, [[name, kwargs], …]]                once: the functions, and what each async call is given
                [call, index, prompt, completion, row]          a call of the function at that index; of a group, the
                                                                place of the completion has a list: pictures.py's of
                                                                images, [completion, what is known of it] of texts
from it         [0, READY, {takes, together}]                   once: the functions are loaded; what each takes, and
                                                                whether the calls sent to it are under way together
                [0, CONFIG | ERROR, text]                       or they are not
                [call, VALUE | ERROR, value or traceback]       for each call as it is done; of a group a list of values. A fourth item, if there is one, has
                                                                what was counted since the answer before: counters.py
"""

import struct
from typing import Any

import msgpack

from ..broker.errors import RewardError

MAX_FRAME_BYTES = 64 * 2**20
"""Of an answer."""
MAX_CALL_BYTES = 2**31
"""Of a call, which may carry the pictures of a whole group."""
HEADER = struct.Struct("<I")
READY, CONFIG, VALUE, ERROR = "ready", "config", "value", "error"


def pack(message: Any, *, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The message as a frame; raises RewardError if it holds anything but JSON values, or too much."""
    try:
        # Half of a surrogate pair, as a tokenizer can produce, has to reach the function as it is.
        body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RewardError(f"a value cannot be sent to or from a reward process: {error}") from error
    if len(body) > max_bytes:
        raise RewardError(f"a message of {len(body)} bytes to or from a reward process exceeds {max_bytes}")
    return HEADER.pack(len(body)) + body


def length(header: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> int:
    """How many bytes follow this header."""
    size: int = HEADER.unpack(header)[0]
    if size > max_bytes:
        raise RewardError(f"a frame announces {size} bytes, more than {max_bytes}")
    return size


def unpack(body: bytes) -> Any:
    """The message in a frame's body."""
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False)
    except Exception as error:  # msgpack raises a dozen types, none of them ours
        raise RewardError(f"a frame is not msgpack: {error}") from error
