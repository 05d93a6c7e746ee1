"""The learner and the processes of one engine as a process group of their own, over which tensors are broadcast.

By NCCL from GPU to GPU, else by gloo over TCP: the same code for both. Nobody's default group is touched, an engine comes and
goes with its channel, and every wait ends: at its deadline, or when the other end is found to be gone.
"""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, TCPStore  # type: ignore[attr-defined]

from ..broker.errors import BrokerError
from .line import Backend, Entry
from .parcels import Parcel, parcels

PARCEL_TIMEOUT_S = 60.0
"""How long one parcel may take, and the other processes to come."""

POLL_S = 0.0005
CLOSE_POLL_S = 0.05
LEARNER = 0

_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Seat:
    """Which of `count` processes this is, of a channel that speaks by `backend`; `host` is its own address for the others."""

    rank: int
    count: int
    backend: Backend
    host: str


class Channel:
    """One process's end. Raises BrokerError where the others are gone; a channel that has failed is of no more use.

    `check` is called while a parcel is on its way, and raises if there is no need to wait any longer.
    """

    def __init__(self, store: Store, seat: Seat, *, check: Callable[[], object] = lambda: None) -> None:
        self._check = check
        self._under_way: collections.deque[Any] = collections.deque()
        self._device = torch.device("cuda", torch.cuda.current_device()) if seat.backend == "nccl" else "cpu"
        self._stream = torch.cuda.Stream() if seat.backend == "nccl" else None
        with _broken(), _BUILDING:
            self._group: Any = _nccl(store, seat) if seat.backend == "nccl" else None
        with _broken():
            self._group = self._group or _gloo(store, seat)
        first = torch.ones(1, dtype=torch.uint8, device=self._device)
        try:
            collections.deque(self._broadcast([first]), maxlen=0)  # NCCL meets at its first word
        except BaseException:
            self.close()
            raise

    def send(self, tensors: Mapping[str, Tensor], entries: Sequence[Entry]) -> None:
        """Send the tensors in the order of their entries."""
        with torch.cuda.stream(self._stream):
            packed = (self._packed(tensors, parcel) for parcel in parcels(entries))
            collections.deque(self._broadcast(packed), maxlen=0)

    def receive(self, entries: Sequence[Entry]) -> Iterator[tuple[str, Tensor]]:
        """The tensors as they come, each in memory of its own parcel's, which lives as long as one of them does."""
        sizes = (parcel.num_bytes for parcel in parcels(entries))
        empty = (torch.empty(size, dtype=torch.uint8, device=self._device) for size in sizes)
        for parcel, buffer in zip(parcels(entries), self._broadcast(empty), strict=True):
            for entry, offset in zip(parcel.entries, parcel.offsets, strict=True):
                raw = buffer[offset : offset + entry.num_bytes]
                yield entry.name, raw.view(getattr(torch, entry.dtype)).view(entry.shape)

    def close(self) -> None:
        """Leave, with nothing under way any more: a group of gloo's that is let go of before that stops the whole process."""
        group, self._group = self._group, None
        if group is not None and self._stream is not None:
            group.abort()
        while any(not work.is_completed() for work in self._under_way):  # each ends by itself, at its deadline
            time.sleep(CLOSE_POLL_S)
        self._under_way.clear()

    def _packed(self, tensors: Mapping[str, Tensor], parcel: Parcel) -> Tensor:
        """A parcel's bytes on the device of this channel: of a tensor that is alone and lies there already, its own."""
        if len(parcel.entries) == 1:
            return _raw(tensors[parcel.entries[0].name]).to(self._device)
        buffer = torch.empty(parcel.num_bytes, dtype=torch.uint8, device=self._device)
        for entry, offset in zip(parcel.entries, parcel.offsets, strict=True):
            buffer[offset : offset + entry.num_bytes].copy_(_raw(tensors[entry.name]))
        return buffer

    def _broadcast(self, buffers: Iterable[Tensor]) -> Iterator[Tensor]:
        """Each buffer once it has travelled, with the next one on its way already."""
        waiting: collections.deque[Tensor] = collections.deque()
        for buffer in buffers:
            self._begin(buffer)
            waiting.append(buffer)
            if len(waiting) > 1:
                self._await_first()
                yield waiting.popleft()
        for buffer in waiting:
            self._await_first()
            yield buffer

    def _begin(self, buffer: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = LEARNER, 0
        options.timeout = timedelta(seconds=PARCEL_TIMEOUT_S)
        with _broken():
            self._under_way.append(self._group.broadcast([buffer], options))

    def _await_first(self) -> None:
        """Until the first of what is under way has arrived."""
        work, deadline = self._under_way[0], time.monotonic() + PARCEL_TIMEOUT_S
        while not work.is_completed():
            self._check()
            if time.monotonic() > deadline:
                raise BrokerError(f"a parcel of weights took more than {PARCEL_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        with _broken():
            work.wait()
        self._under_way.popleft()


def meet(host: str, port: int, prefix: str) -> Store:
    """The store where a channel is formed, found by whoever does not keep it."""
    timeout = timedelta(seconds=PARCEL_TIMEOUT_S)
    with _broken():
        return PrefixStore(prefix, TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout))


def entries_of(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """What is said of tensors before they follow."""
    return [
        Entry(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape))  # type: ignore[arg-type]
        for name, tensor in tensors.items()
    ]


def gpu() -> str:
    """What tells the GPU that this process uses from all others; an empty string on a CPU."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if torch.cuda.is_available() else ""


def backend_for(devices: Sequence[str]) -> Backend:
    """NCCL where this process and all of those have GPUs, no two the same, as it takes no two processes on one; else gloo."""
    apart = [gpu(), *devices]
    return "nccl" if all(apart) and len(set(apart)) == len(apart) and dist.is_nccl_available() else "gloo"


def _gloo(store: Store, seat: Seat) -> Any:
    """By the interface that has this process's address, and not the one of its host's name."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname=seat.host)]
    options._timeout = timedelta(seconds=PARCEL_TIMEOUT_S)
    options._threads = 1
    return ProcessGroupGloo(store, seat.rank, seat.count, options)


def _nccl(store: Store, seat: Seat) -> Any:
    """Without the watchdog that ends a whole process when one engine is gone."""
    variable, before = "TORCH_NCCL_ASYNC_ERROR_HANDLING", os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING")
    os.environ[variable] = "0"
    try:
        return dist.ProcessGroupNCCL(store, seat.rank, seat.count, dist.ProcessGroupNCCL.Options())
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def _broken() -> Iterator[None]:
    """Raises BrokerError for what torch.distributed raises when the others are gone, or do not come."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        said = str(error).partition("Exception raised from")[0].strip() or repr(error)
        raise BrokerError(f"the weights cannot travel: {said.splitlines()[0]:.300}") from error
