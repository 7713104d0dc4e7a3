"""Events in the order in which they are lived through, whatever the order of the files, and their labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times, under_spec
from rillet.recordings import Event, RecordingError
from rillet.schemas import FeatureEvent, FeatureSpec, History, Slot, value_of
from tests.backtest.events import SPEC, action, request, write_recording


def told(events: list) -> list[tuple[str, int, str]]:  # type: ignore[type-arg]
    return [
        (event.request_id, event.event_time_ms, "request" if isinstance(event, FeatureEvent) else event.action)
        for event in events
    ]


def test_files_in_any_order_are_lived_through_in_order_of_event_time(tmp_path: Path) -> None:
    recording = write_recording(
        tmp_path / "r",
        [
            request("b", 200),
            request("a", 100),
            action("b", 300),
            action("a", 200),  # at the time of request b: after it
            action("a", 150, kind="buy"),
        ],
    )
    assert told(load_events(recording)) == [
        ("a", 100, "request"),
        ("a", 150, "buy"),
        ("b", 200, "request"),
        ("a", 200, "click"),
        ("b", 300, "click"),
    ]


def test_an_action_stamped_before_its_request_comes_right_after_it(tmp_path: Path) -> None:
    recording = write_recording(
        tmp_path / "r", [request("a", 100), action("b", 90), request("b", 100), action("a", 101)]
    )
    assert [entry[0] for entry in told(load_events(recording))] == ["a", "b", "b", "a"]


def test_a_request_that_is_recorded_twice_counts_once_and_foreign_actions_not_at_all(tmp_path: Path) -> None:
    recording = write_recording(
        tmp_path / "r", [request("a", 100, [1, 2]), request("a", 120, [3]), action("nobody", 110), request("b", 130)]
    )
    events = load_events(recording)
    assert told(events) == [("a", 100, "request"), ("b", 130, "request")]
    assert label_events(events, SPEC).request_ids == ["a", "b"]
    assert [event.request_id for event in load_events(recording, 1)] == ["a"]


def test_what_was_not_exposed_is_left_out(tmp_path: Path) -> None:
    part = replace(request("a", 1_000, [1, 2, 3]), exposed=np.array([0, 1, 1], np.uint8))
    hidden = replace(request("b", 2_000, [1]), exposed=np.zeros(1, np.uint8))
    recording = write_recording(tmp_path / "recording", [part, hidden, action("a", 1_100, 2), action("b", 2_100)])
    first, *others = load_events(recording)
    assert isinstance(first, FeatureEvent)
    assert first.impression_ids.tolist() == [2, 3]
    assert [event.request_id for event in others] == ["a"]


def test_a_recording_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no requests"):
        load_events(write_recording(tmp_path / "r", []))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (replace(request("b", 2), dense=np.ones(3, np.float32)), r"request b: .*dense"),
        (replace(action("a", 2), value=float("nan")), r"action on a: value: not finite"),
    ],
)
def test_an_event_that_the_spec_does_not_describe_is_refused_by_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: Event, message: str
) -> None:
    with monkeypatch.context() as unchecked:
        unchecked.setattr(FeatureSpec, "check_feature", lambda spec, event: None)
        unchecked.setattr(FeatureSpec, "check_action", lambda spec, event: None)
        recording = write_recording(tmp_path / "r", [request("a", 1), event])
    with pytest.raises(RecordingError, match=message):
        load_events(recording)


def test_events_of_another_spec_carry_its_hash() -> None:
    other = replace(SPEC, sampling_seed=7)
    stamped = under_spec([request("a", 1), action("a", 2)], SPEC, other)
    assert isinstance(stamped[0], FeatureEvent)
    assert stamped[0].spec_hash == other.hash != SPEC.hash
    other.check_feature(stamped[0])


def test_histories_that_were_not_recorded_are_filled_from_the_actions() -> None:
    seen = Slot("seen", 3, "history", 2, history=History(of="item", action="click", by="user"))
    spec = replace(SPEC, context=(*SPEC.context, seen))
    events = under_spec(
        [request("a", 100, user=7), action("a", 110, 2), request("b", 120, user=7), request("c", 120, user=8)],
        SPEC,
        spec,
    )
    for event, expected in zip((events[0], *events[2:]), ([7, 0], [7, 0, 2], [8, 0]), strict=True):
        assert isinstance(event, FeatureEvent)
        spec.check_feature(event)
        assert value_of(event.context_fids).tolist() == expected


def test_judging_begins_with_the_request_after_the_share() -> None:
    times = request_times([request(str(i), 10 * i) for i in range(10)])
    assert judged_from(times, 0.2) == 20
    assert judged_from(times, 0.0) == 0
    assert judged_from(times, 0.999) == 90


@pytest.mark.parametrize("of", ["a request", "an action", "an action on no request"])
def test_a_clock_that_is_a_day_ahead_does_not_close_the_label_windows_of_all(tmp_path: Path, of: str) -> None:
    day_ms = 86_400_000
    events = [request(str(at), 1_000 * at) for at in range(50)]
    name = "30" if of == "an action" else "nobody"
    wrong = request("wrong", day_ms) if of == "a request" else action(name, day_ms)
    recording = write_recording(tmp_path / "r", [*events[:40], wrong, *events[40:]])
    assert last_event(recording, load_events(recording)) == 49_000
    assert last_event(recording, load_events(recording, 10), 10) == day_ms, "what was left out is not known"


def test_a_gap_between_many_events_is_part_of_the_recording(tmp_path: Path) -> None:
    times = [*range(0, 50_000, 1_000), *range(10_000_000, 10_010_000, 1_000)]
    recording = write_recording(tmp_path / "r", [request(str(time_ms), time_ms) for time_ms in times])
    assert last_event(recording, load_events(recording)) == times[-1]
    few = write_recording(tmp_path / "s", [request("a", 0), request("b", 10_000_000)])
    assert last_event(few, load_events(few)) == 10_000_000
