"""The bytes in the checkpointed state: what is written reads back, what is damaged is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner import JoinerError
from rillet.joiner.state import (
    Place,
    pack_labels,
    pack_places,
    pack_request,
    pack_waiting,
    unpack_labels,
    unpack_places,
    unpack_request,
    unpack_waiting,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
PLACES = st.lists(st.builds(Place, INT64, st.integers(0, (1 << 32) - 1)), max_size=5)


@given(st.text(), INT64, st.binary())
def test_a_request_reads_back(request_id: str, ingest_ms: int, record: bytes) -> None:
    assert unpack_request(pack_request(request_id, ingest_ms, record)) == (request_id, ingest_ms, record)


@given(st.integers(0, 1 << 200), st.binary())
def test_labels_read_back(positives: int, times: bytes) -> None:
    assert unpack_labels(pack_labels(positives, times)) == (positives, times)


@given(INT64, st.binary())
def test_a_waiting_action_reads_back(ingest_ms: int, record: bytes) -> None:
    assert unpack_waiting(pack_waiting(ingest_ms, record)) == (ingest_ms, record)


@given(PLACES)
def test_places_read_back_in_their_order(places: list[Place]) -> None:
    assert unpack_places(pack_places(places)) == places


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (unpack_request, "a request"),
        (unpack_labels, "the labels of a request"),
        (unpack_waiting, "a waiting action"),
        (unpack_places, "a place"),
    ],
)
def test_what_is_cut_off_is_refused(read: Callable[[bytes], Any], what: str) -> None:
    with pytest.raises(JoinerError, match=f"{what} in the checkpointed state (is|are) damaged"):
        read(b"xyz")
