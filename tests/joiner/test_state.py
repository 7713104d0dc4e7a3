"""The bytes in the checkpointed state: what is written reads back, what is damaged is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner import JoinerError
from rillet.joiner.state import (
    Labels,
    Place,
    pack_place,
    pack_request,
    pack_waiting,
    unpack_place,
    unpack_request,
    unpack_waiting,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
BITS = st.integers(0, 1 << 200)


@given(st.text(), INT64, st.binary())
def test_a_request_reads_back(request_id: str, ingest_ms: int, record: bytes) -> None:
    assert unpack_request(pack_request(request_id, ingest_ms, record)) == (request_id, ingest_ms, record)


@given(INT64, INT64, INT64, st.binary())
def test_a_waiting_action_reads_back(arrival: int, slice_: int, ingest_ms: int, record: bytes) -> None:
    assert unpack_waiting(pack_waiting(arrival, slice_, ingest_ms, record)) == (arrival, slice_, ingest_ms, record)


@given(st.builds(Place, INT64, st.integers(0, (1 << 32) - 1)), st.builds(Labels, BITS, BITS, st.binary()))
def test_a_place_and_its_labels_read_back(place: Place, labels: Labels) -> None:
    assert unpack_place(pack_place(place, labels)) == (place, labels)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (unpack_request, "a request"),
        (unpack_waiting, "a waiting action"),
        (unpack_place, "the place of a request"),
    ],
)
def test_what_is_cut_off_is_refused(read: Callable[[bytes], Any], what: str) -> None:
    with pytest.raises(JoinerError, match=f"{what} in the checkpointed state (is|are) damaged"):
        read(b"xyz")
