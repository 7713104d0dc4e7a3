"""Both shapes hold the same impressions and actions, and say themselves how many positives they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rillet.benchmarks.join.shapes import (
    CLOSING_GAP_MS,
    CLOSING_REQUESTS,
    CONTEXT,
    IMPRESSION,
    ITEM,
    PAGE,
    REQUEST,
    SPEC,
    WINDOW_MS,
    Shape,
    events,
    load_of,
    open_recording,
    recording_name,
)
from rillet.recordings import RecordingError
from rillet.recordings.format import Event
from rillet.schemas import ActionEvent, FeatureEvent

REQUESTS = 120


def shown(found: list[Event]) -> list[FeatureEvent]:
    return [event for event in found if isinstance(event, FeatureEvent)]


def acted(found: list[Event]) -> list[ActionEvent]:
    return [event for event in found if isinstance(event, ActionEvent)]


def test_a_request_has_16_impressions_of_20_fids_and_1_6_actions() -> None:
    found = list(events(REQUESTS, REQUEST))
    pages = shown(found)[:REQUESTS]
    assert [len(event.impression_ids) for event in pages] == [PAGE] * REQUESTS
    assert {len(event.context_fids) + len(event.item_fids) // PAGE for event in pages} == {CONTEXT + ITEM} == {20}
    assert 1.4 < (len(acted(found)) - CLOSING_REQUESTS) / REQUESTS < 1.8
    for event in pages[:20]:
        SPEC.check_feature(event)


def test_the_shapes_differ_only_in_how_impressions_lie_in_records() -> None:
    requests, impressions = (list(events(REQUESTS, shape)) for shape in (REQUEST, IMPRESSION))
    for attribute in ("impression_ids", "item_fids"):
        one, other = (
            np.concatenate([getattr(event, attribute) for event in shown(found)]) for found in (requests, impressions)
        )
        np.testing.assert_array_equal(one, other)
    assert {len(event.impression_ids) for event in shown(impressions)} == {1}
    of_requests = [(action.event_time_ms, action.impression_id) for action in acted(requests)]
    assert of_requests == [(action.event_time_ms, action.impression_id) for action in acted(impressions)]
    # A key of its own: what joins by key alone finds the impression.
    ids = [event.request_id for event in shown(impressions)]
    assert len(set(ids)) == len(ids)
    assert {action.request_id for action in acted(impressions)} <= set(ids)


def test_events_come_in_the_order_of_their_times_and_no_impression_has_two_actions() -> None:
    found = list(events(REQUESTS, REQUEST))
    times = [event.event_time_ms for event in found]
    assert times == sorted(times)
    pairs = [(action.request_id, action.impression_id) for action in acted(found)]
    assert len(set(pairs)) == len(pairs)


def test_the_requests_at_the_end_close_every_window_of_the_others() -> None:
    *others, last = shown(list(events(REQUESTS, REQUEST)))
    assert last.event_time_ms - others[REQUESTS - 1].event_time_ms > CLOSING_GAP_MS > WINDOW_MS


def test_a_recording_tells_how_many_actions_lie_in_their_windows(tmp_path: Path) -> None:
    recording = open_recording(tmp_path, REQUESTS, IMPRESSION)
    times = {event.request_id: event.event_time_ms for event in recording.features()}
    after = [action.event_time_ms - times[action.request_id] for action in recording.actions()]
    load = load_of(recording)
    assert load.impressions == REQUESTS * PAGE + CLOSING_REQUESTS
    assert load.records == load.impressions + len(after)
    assert load.positives == sum(one < WINDOW_MS for one in after) < len(after)


def test_a_recording_is_made_once_and_one_that_was_cut_again(tmp_path: Path) -> None:
    shape = Shape("request", PAGE, "")
    made = open_recording(tmp_path, 5, shape).directory
    assert made == tmp_path / recording_name(5, shape)
    before = (made / "features.avro").stat().st_mtime_ns
    open_recording(tmp_path, 5, shape)
    assert (made / "features.avro").stat().st_mtime_ns == before
    (made / "recording.json").unlink()
    try:
        open_recording(tmp_path, 5, shape)
    except RecordingError as error:
        raise AssertionError("a recording that was not written to its end stays in the way") from error
    assert (made / "features.avro").stat().st_mtime_ns > before
