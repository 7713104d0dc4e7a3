"""What a publication tells of its freshness: bounded, evenly sampled, nothing newer forgotten."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import MAX_ACTION_TIMES, Freshness


@given(st.integers(0, 300), st.integers(2, 60))
def test_a_sample_keeps_ends_order_and_even_spacing(count: int, limit: int) -> None:
    kept = Freshness(3, 4, np.arange(count)).sampled(limit)
    times = kept.action_ingest_ms
    assert (kept.newest_event_ms, kept.newest_ingest_ms, len(times)) == (3, 4, min(count, limit))
    if count > limit:
        gaps = np.diff(times)
        assert (times[0], times[-1]) == (0, count - 1)
        assert gaps.max() - gaps.min() <= 1


def test_merging_keeps_the_newest_times_and_the_order_of_the_actions() -> None:
    merged = Freshness(7, 3, np.array([1, 2])).merged(Freshness(5, 9, np.array([3])))
    assert (merged.newest_event_ms, merged.newest_ingest_ms) == (7, 9)
    assert merged.action_ingest_ms.tolist() == [1, 2, 3]


def test_merging_without_end_stays_bounded_and_reaches_from_first_to_last() -> None:
    merged = Freshness()
    for number in range(5):
        merged = merged.merged(Freshness(0, 0, np.arange(30_000) + 30_000 * number))
    assert len(merged.action_ingest_ms) == MAX_ACTION_TIMES
    assert merged.action_ingest_ms[[0, -1]].tolist() == [0, 149_999]
