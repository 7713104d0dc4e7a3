"""The bytes in the checkpointed state: what is written reads back, what is damaged is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner import JoinerError
from rillet.joiner.state import (
    NEVER_MS,
    BucketHeader,
    EntryKind,
    pack_entry,
    pack_positives_entry,
    pack_waiting_entry,
    unpack_entry,
    unpack_positives_entry,
    unpack_waiting_entry,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.sampled_from(list(EntryKind)), INT64, st.binary())
def test_an_entry_reads_back(kind: EntryKind, ingest_ms: int, body: bytes) -> None:
    assert unpack_entry(pack_entry(kind, ingest_ms, body)) == (kind, ingest_ms, body)


@given(st.text(), st.binary(max_size=20), INT64)
def test_the_positives_of_a_request_read_back_with_the_time_of_the_action(
    request_id: str, positives: bytes, action_time_ms: int
) -> None:
    expected = (request_id, int.from_bytes(positives, "little"), action_time_ms)
    assert unpack_positives_entry(pack_positives_entry(request_id, positives, action_time_ms)) == expected


@given(INT64, st.binary())
def test_a_waiting_action_reads_back_with_its_number(number: int, record: bytes) -> None:
    assert unpack_waiting_entry(pack_waiting_entry(number, record)) == (number, record)


@given(st.integers(0, (1 << 64) - 1), INT64, INT64, st.sets(INT64), st.sets(INT64))
def test_a_header_reads_back(digest: int, closed_ms: int, drained: int, slices: set[int], waiting: set[int]) -> None:
    header = BucketHeader(digest, closed_ms, drained, slices, waiting)
    assert BucketHeader.from_bytes(header.to_bytes()) == header


def test_a_fresh_header_has_closed_nothing() -> None:
    header = BucketHeader(1)
    assert (header.closed_ms, header.drained_slice) == (NEVER_MS, NEVER_MS)
    assert not header.slices
    assert not header.waiting_slices


@pytest.mark.parametrize(
    "damage", [lambda e: e[:-1], lambda e: e + b"x", lambda e: b"\x09" + e[1:], lambda e: e[:5], lambda e: b""]
)
def test_a_damaged_entry_is_refused(damage: object) -> None:
    good = pack_entry(EntryKind.FEATURE, 5, b"body")
    with pytest.raises(JoinerError, match="entry in the checkpointed state is damaged"):
        unpack_entry(damage(good))  # type: ignore[operator]
