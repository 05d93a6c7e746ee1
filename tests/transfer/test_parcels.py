import torch
from hypothesis import given
from hypothesis import strategies as st

from areal.transfer.channel import entries_of
from areal.transfer.line import Entry
from areal.transfer.parcels import ALIGNMENT, MAX_PARCEL_BYTES, parcels

from .test_line import ENTRIES


@given(st.lists(ENTRIES, max_size=30), st.integers(1, 5000))
def test_all_tensors_are_packed_once_in_order_and_within_bounds(entries: list[Entry], max_bytes: int) -> None:
    packed = list(parcels(entries, max_bytes))
    assert [entry for parcel in packed for entry in parcel.entries] == entries
    for parcel in packed:
        assert parcel.num_bytes <= max_bytes or len(parcel.entries) == 1
        end = 0
        for entry, offset in zip(parcel.entries, parcel.offsets, strict=True):
            assert offset % ALIGNMENT == 0 and end <= offset < end + ALIGNMENT
            end = offset + entry.num_bytes
        assert parcel.num_bytes == end


def test_small_tensors_travel_together_and_a_large_one_alone() -> None:
    half = torch.empty(MAX_PARCEL_BYTES // 2, dtype=torch.uint8, device="meta")
    large = torch.empty(3 * MAX_PARCEL_BYTES, dtype=torch.uint8, device="meta")
    entries = entries_of({"a": half, "b": half, "c": torch.empty(1), "d": large, "e": half})
    assert [[entry.name for entry in parcel.entries] for parcel in parcels(entries)] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
    ]
