"""A TCP connection that carries messages: JSON behind its length, each of a kind that is expected, no longer than is allowed.

engine  Hello ──▶      ──▶ Ask ──▶           ──▶ Ask …
learner       ◀── Welcome     ◀── Manifest, and then the tensors over the Channel

What comes in was written by whoever has found the port: it is bounded before it is read, and checked before it is used.
"""

import contextlib
import math
import socket
import struct
import time
import zlib
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..broker.errors import BrokerError, CodecError
from ..broker.transport import NAME

MAX_SAID_BYTES = 2**14
"""Of a message of an engine's. A Manifest may be longer."""

MAX_MANIFEST_BYTES = 2**25
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 2**36
MAX_PROCESSES = 64

ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
"""The dtypes that travel, by their names in torch."""

_LENGTH = struct.Struct("!I")

Backend = Literal["gloo", "nccl"]
Length = Annotated[int, Field(ge=0, le=MAX_TENSOR_BYTES)]


class Message(BaseModel):
    """What is said on a line, as it was meant or not at all."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Hello(Message):
    """An engine comes, with the GPU of each of its processes ("" for a CPU)."""

    token: str = Field(max_length=64)
    devices: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=MAX_PROCESSES)


class Welcome(Message):
    """Where the processes of the engine and the learner form their Channel: at a port of the learner's host, under a prefix."""

    backend: Backend
    port: int = Field(ge=1, le=65535)
    prefix: str = Field(max_length=64)


class Ask(Message):
    """The version that is wanted, by its name."""

    name: str = Field(pattern=f"^{NAME.pattern}$", max_length=32)


class Entry(Message):
    """A tensor that follows."""

    name: str = Field(min_length=1, max_length=512)
    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
    shape: list[Length] = Field(max_length=MAX_DIMENSIONS)

    @model_validator(mode="after")
    def _is_bounded(self) -> "Entry":
        if self.num_bytes > MAX_TENSOR_BYTES:
            raise ValueError(f"a tensor of {self.num_bytes} bytes")
        return self

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Manifest(Message):
    """The tensors of a version, in the order in which they follow; None of one that the learner no longer holds."""

    tensors: list[Entry] | None = Field(max_length=MAX_TENSORS)

    @model_validator(mode="after")
    def _names_each_once(self) -> "Manifest":
        names = [entry.name for entry in self.tensors or []]
        if len(set(names)) < len(names):
            raise ValueError("a tensor comes twice")
        return self

    @property
    def digest(self) -> int:
        """By which it is known for the one that was announced."""
        return zlib.crc32(self.model_dump_json().encode())


Said = TypeVar("Said", bound=Message)


class Line:
    """One end of the connection. Raises BrokerError where the other end is gone or says what is not expected."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # so that a host that is cut off is noticed

    @property
    def own_host(self) -> str:
        """The address of this end."""
        return str(self._socket.getsockname()[0])

    def say(self, message: Message, *, timeout_s: float) -> None:
        body = message.model_dump_json().encode()
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except TimeoutError as error:
            raise BrokerError(f"a message was not taken within {timeout_s:g} s") from error
        except OSError as error:
            raise BrokerError(f"the connection is broken: {error}") from error

    def hear(self, kind: type[Said], *, timeout_s: float | None, max_bytes: int = MAX_SAID_BYTES) -> Said:
        """The next message, which must be of that kind; it must be there whole in `timeout_s`, where one is given."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > max_bytes:
            raise CodecError(f"a message of {length} bytes, more than the {max_bytes} of a {kind.__name__}")
        try:
            return kind.model_validate_json(self._read(length, deadline))
        except ValidationError as error:
            raise CodecError(f"what came is no {kind.__name__}: {error!s:.300}") from None

    def require_open(self) -> None:
        """Raises BrokerError if the other end is gone."""
        try:
            self._socket.settimeout(0)
            is_gone = not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise BrokerError(f"the connection is broken: {error}") from error
        if is_gone:
            raise BrokerError("the other end is gone")

    def close(self) -> None:
        """Hang up; whoever still listens here, in another thread, hears the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, count: int, deadline: float | None) -> bytes:
        read = bytearray()
        try:
            while len(read) < count:
                self._socket.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
                piece = self._socket.recv(min(count - len(read), 2**16))
                if not piece:
                    raise BrokerError("the other end is gone")
                read += piece
                if deadline is not None and time.monotonic() > deadline and len(read) < count:
                    raise TimeoutError
        except TimeoutError as error:
            raise BrokerError("nothing, or only half a message, came in time") from error
        except OSError as error:
            raise BrokerError(f"the connection is broken: {error}") from error
        return bytes(read)
