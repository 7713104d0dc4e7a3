"""The header of a bucket: reads back whole, stays small, and says what has begun."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner.header import NEVER_MS, BucketHeader, Discarded, OpenSlice, Work, WorkKind
from rillet.joiner.slices import MAX_OPEN_SLICES

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
UINT32 = st.integers(0, (1 << 32) - 1)
DISCARDED = st.builds(Discarded, st.integers(0, 100), UINT32, UINT32)
WORK = st.builds(Work, st.sampled_from(WorkKind), INT64, st.integers(0, 100), UINT32)


@given(
    st.builds(
        BucketHeader,
        st.integers(0, (1 << 64) - 1),
        INT64,
        st.none() | WORK,
        st.dictionaries(INT64, st.builds(OpenSlice, UINT32, UINT32, st.lists(DISCARDED, max_size=3))),
        UINT32,
    )
)
def test_a_header_reads_back(header: BucketHeader) -> None:
    assert BucketHeader.from_bytes(header.to_bytes()) == header


def test_the_number_of_requests_is_read_as_the_least_there_are() -> None:
    header = BucketHeader(1, slices={5: OpenSlice(7, exact=True)})
    assert BucketHeader.from_bytes(header.to_bytes()).slices[5] == OpenSlice(7, exact=False)


def test_a_header_costs_sixteen_bytes_per_open_slice_however_many_requests_there_are() -> None:
    slices = {slice_: OpenSlice((1 << 32) - 1, (1 << 32) - 1) for slice_ in range(MAX_OPEN_SLICES)}
    assert len(BucketHeader(1, slices=slices).to_bytes()) < 16 * MAX_OPEN_SLICES + 64


def test_negatives_that_one_drain_after_the_other_has_discarded_are_noted_once() -> None:
    one = OpenSlice()
    for task, first, end in ((0, 0, 5), (1, 3, 5), (0, 5, 9), (1, 5, 9), (0, 9, 9)):
        one.discard(task, first, end)
    assert one.discarded == [(0, 0, 9), (1, 3, 9)]


def test_a_fresh_header_has_closed_nothing() -> None:
    header = BucketHeader(1)
    assert (header.closed_ms, header.work, header.slices, header.slots) == (NEVER_MS, None, {}, 0)
