"""What a publication tells of its freshness: bounded, evenly sampled, nothing newer forgotten; requests as they were shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import MAX_ACTION_TIMES, FeatureEvent, Freshness, decode, encode


@given(st.integers(0, 300), st.integers(2, 60))
def test_a_sample_keeps_ends_order_and_even_spacing(count: int, limit: int) -> None:
    kept = Freshness(3, 4, np.arange(count)).sampled(limit)
    times = kept.action_ingest_ms
    assert (kept.newest_event_ms, kept.newest_ingest_ms, len(times)) == (3, 4, min(count, limit))
    if count > limit:
        gaps = np.diff(times)
        assert (times[0], times[-1]) == (0, count - 1)
        assert gaps.max() - gaps.min() <= 1


def test_merging_takes_the_later_times_and_keeps_the_order_of_the_actions() -> None:
    """The larger of both would keep a time of tomorrow until tomorrow."""
    merged = Freshness(7, 3, np.array([1, 2])).merged(Freshness(5, 9, np.array([3])))
    assert (merged.newest_event_ms, merged.newest_ingest_ms) == (5, 9)
    assert merged.action_ingest_ms.tolist() == [1, 2, 3]


def test_merging_with_what_has_no_times_keeps_the_times() -> None:
    merged = Freshness(7, 3).merged(Freshness())
    assert (merged.newest_event_ms, merged.newest_ingest_ms) == (7, 3)


def _merged_in_parts(times: np.ndarray, size: int) -> Freshness:
    merged = Freshness()
    for start in range(0, len(times), size):
        merged = merged.merged(Freshness(0, 0, times[start : start + size]))
    return merged


@pytest.mark.parametrize(("count", "size"), [(150_000, 30_000), (1_800_000, 10_000), (200_000, 997)])
def test_merging_many_times_is_sampling_once(count: int, size: int) -> None:
    """After an outage the oldest actions must count as much as the newest."""
    merged = _merged_in_parts(np.arange(count), size)
    times = merged.action_ingest_ms
    assert MAX_ACTION_TIMES / 2 <= len(times) <= MAX_ACTION_TIMES
    assert merged.actions == count
    assert times[0] == 0
    assert len(np.unique(np.diff(times))) == 1
    assert count - times[-1] <= np.diff(times)[0]


def test_merging_what_was_merged_before_weighs_every_action_the_same() -> None:
    first, second = np.arange(500_000), np.arange(500_000, 1_000_000)
    merged = _merged_in_parts(first, 3000).merged(_merged_in_parts(second, 70_000))
    for part in range(1, 100):
        merged = merged.merged(Freshness(0, 0, 1_000_000 + np.arange(part)))
    quantiles = np.quantile(merged.action_ingest_ms, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, np.array([0.1, 0.5, 0.9]) * merged.actions, rtol=0.005)


def test_a_sample_says_how_many_actions_it_stands_for() -> None:
    kept = Freshness(0, 0, np.arange(100)).sampled(7)
    assert (len(kept.action_ingest_ms), kept.action_times_left_out, kept.actions) == (7, 93, 100)


def test_a_sample_of_one_is_the_action_in_the_middle() -> None:
    assert Freshness(0, 0, np.arange(101)).sampled(1).action_ingest_ms.tolist() == [50]


@pytest.mark.parametrize("ragged", [True, False])
def test_a_request_as_shown_has_the_columns_of_its_exposed_impressions_alone(ragged: bool) -> None:
    lengths = np.array([1, 2, 1, 0, 1, 1], np.uint16) if ragged else None
    event = FeatureEvent(
        request_id="r",
        event_time_ms=1,
        spec_hash=2,
        context_fids=np.array([1, 2]),
        impression_ids=np.array([7, 8, 9]),
        item_fids=np.arange(6),
        item_lengths=lengths,
        dense=np.arange(6, dtype=np.float32),
        served_logits=np.arange(3, dtype=np.float32),
        exposed=np.array([0, 1, 1], np.uint8),
    )
    shown = event.shown()
    assert (shown.impression_ids.tolist(), shown.context_fids.tolist()) == ([8, 9], [1, 2])
    assert shown.item_fids.tolist() == ([3, 4, 5] if ragged else [2, 3, 4, 5])
    assert shown.item_lengths is None or shown.item_lengths.tolist() == [1, 0, 1, 1]
    assert shown.dense.tolist() == [2, 3, 4, 5]
    assert shown.served_logits is not None
    assert (shown.served_logits.tolist(), shown.exposed, shown.shown()) == ([1, 2], None, shown)
    assert decode(encode(event)).exposed.tolist() == [0, 1, 1]  # type: ignore[union-attr]
