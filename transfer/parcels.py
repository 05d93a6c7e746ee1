"""How tensors are packed, so that small ones do not cost a round trip each: both ends work it out of the same list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .line import Entry

MAX_PARCEL_BYTES = 64 * 2**20
"""Of several tensors together; a larger one travels alone."""

ALIGNMENT = 16
"""Where a tensor begins is a multiple of it, and so of the size of its items."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Tensors that follow each other, the place of each in it, and the bytes of all."""

    entries: tuple[Entry, ...]
    offsets: tuple[int, ...]
    num_bytes: int


def parcels(entries: Sequence[Entry], max_bytes: int = MAX_PARCEL_BYTES) -> Iterator[Parcel]:
    """The parcels of these tensors, in their order."""
    packed: list[Entry] = []
    offsets: list[int] = []
    end = 0
    for entry in entries:
        begin = end + -end % ALIGNMENT
        if packed and begin + entry.num_bytes > max_bytes:
            yield Parcel(tuple(packed), tuple(offsets), end)
            packed, offsets, begin = [], [], 0
        packed.append(entry)
        offsets.append(begin)
        end = begin + entry.num_bytes
    if packed:
        yield Parcel(tuple(packed), tuple(offsets), end)
