"""Histories of recorded requests, filled from the recorded actions: what was before a request, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.recordings import Event
from rillet.recordings.histories import HistoryFiller
from rillet.schemas import (
    ActionEvent,
    DenseFeature,
    FeatureEvent,
    RecordError,
    SpecError,
    make_fids,
    parse_spec,
    slot_of,
    value_of,
)

HISTORIES = """
[[context]]
name = "watched"
slot = 2
kind = "history"
of = "film"
action = "watch"
by = "user"
max_values = 3
max_age_ms = 15
[[context]]
name = "hour"
slot = 3
kind = "id"
[[context]]
name = "bought_tags"
slot = 4
kind = "history"
of = "tags"
action = "buy"
by = "user"
max_values = 4
"""
TEXT = """
[spec]
name = "films"
[[context]]
name = "user"
slot = 1
kind = "id"
%s
[[item]]
name = "tags"
slot = 16
kind = "id"
max_values = 2
[[item]]
name = "film"
slot = 17
kind = "id"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 1000
"""
SPEC = parse_spec(TEXT % HISTORIES)
PLAIN = SPEC.without_histories()


def request(name: str, time_ms: int, user: int, films: list[int]) -> FeatureEvent:
    """A page of films, each with as many tags as its number is odd: 0 or the tags n and n + 100."""
    rows = [(*(make_fids(16, [film, film + 100]) if film % 2 else ()), make_fids(17, film)) for film in films]
    return FeatureEvent(
        request_id=name,
        event_time_ms=time_ms,
        spec_hash=PLAIN.hash,
        context_fids=np.concatenate([make_fids(1, [user]), make_fids(3, [time_ms % 24])]),
        impression_ids=np.array(films) * 10,
        item_fids=np.array([fid for row in rows for fid in row], np.int64),
        item_lengths=np.array([(len(row) - 1, 1) for row in rows], np.uint16).reshape(-1),
    )


def filled(events: list[Event]) -> list[dict[str, list[int]]]:
    """By request, values of each context slot."""
    filler = HistoryFiller(PLAIN, SPEC)
    found = []
    for event in map(filler.take, events):
        if isinstance(event, FeatureEvent):
            SPEC.check_feature(event)
            slots = slot_of(event.context_fids)
            found.append(
                {slot.name: value_of(event.context_fids[slots == slot.slot]).tolist() for slot in SPEC.context}
            )
    return found


def test_a_request_gets_what_its_user_did_before_newest_first() -> None:
    first, *_, last = filled(
        [
            request("a", 100, 7, [1, 2]),
            request("b", 101, 8, [3]),
            ActionEvent("a", 102, 20, "watch"),
            ActionEvent("b", 103, 30, "watch"),  # of another user
            ActionEvent("a", 104, 10, "watch"),
            ActionEvent("a", 105, 10, "buy"),
            ActionEvent("a", 105, 20, "like"),  # no history asks for it
            ActionEvent("a", 106, 99, "watch"),  # an impression that was not there
            ActionEvent("z", 106, 10, "watch"),  # nobody's request
            request("c", 110, 7, [5]),
        ]
    )
    assert first == {"user": [7], "watched": [], "hour": [100 % 24], "bought_tags": []}
    assert last == {"user": [7], "watched": [1, 2], "hour": [110 % 24], "bought_tags": [1, 101]}


def test_values_grow_old() -> None:
    ages = [
        filled([request("a", 100, 7, [1]), ActionEvent("a", 101, 10, "watch"), request("b", at_ms, 7, [1])])[1]
        for at_ms in (101, 102, 116, 117)
    ]
    assert [columns["watched"] for columns in ages] == [[], [1], [1], []]


def test_an_action_stamped_before_its_request_is_no_part_of_that_request() -> None:
    events = [request("a", 100, 7, [1]), ActionEvent("a", 95, 10, "watch"), request("b", 100, 7, [1])]
    assert [columns["watched"] for columns in filled([*events, request("c", 101, 7, [1])])] == [[], [], [1]]


@st.composite
def _streams(draw: st.DrawFn) -> list[Event]:
    """Requests in order of time with actions before, at and after their times, as they would arrive."""
    events: list[tuple[int, int, Event]] = []
    time_ms = 1_000
    for number in range(draw(st.integers(1, 8))):
        time_ms += draw(st.integers(0, 6))
        films = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True))
        events.append((time_ms, 0, request(str(number), time_ms, draw(st.integers(1, 2)), films)))
        for film in draw(st.lists(st.sampled_from(films), max_size=3)):
            at_ms = time_ms + draw(st.integers(-4, 20))
            name = draw(st.sampled_from(["watch", "buy", "other"]))
            events.append((max(at_ms, time_ms), 1, ActionEvent(str(number), at_ms, film * 10, name)))
    return [event for *_, event in sorted(events, key=lambda entry: entry[:2])]


@settings(deadline=None, max_examples=40)
@given(_streams())
def test_no_request_sees_an_action_at_or_after_its_time_or_misses_one_before(events: list[Event]) -> None:
    requests = {event.request_id: event for event in events if isinstance(event, FeatureEvent)}
    for event, columns in zip(requests.values(), filled(events), strict=True):
        newest: dict[int, tuple[int, int]] = {}
        for number, action in enumerate(events):
            if isinstance(action, ActionEvent) and action.action == "watch":
                shown = requests[action.request_id]
                at_ms = max(action.event_time_ms, shown.event_time_ms)
                if shown.context_fids[0] == event.context_fids[0] and at_ms < event.event_time_ms:
                    film = action.impression_id // 10
                    newest[film] = max(newest.get(film, (0, 0)), (at_ms, number))
        expected = sorted(newest, key=lambda film: newest[film], reverse=True)[:3]
        assert columns["watched"] == [film for film in expected if newest[film][0] >= event.event_time_ms - 15]


def test_histories_that_were_recorded_alike_stay_and_others_are_made_again_or_left_out() -> None:
    filler = HistoryFiller(PLAIN, SPEC)
    events = [request("a", 100, 7, [1]), ActionEvent("a", 101, 10, "watch"), ActionEvent("a", 101, 10, "buy")]
    recorded = [filler.take(event) for event in events]
    # What the application really sent, which the actions of the recording do not tell.
    sent = filler.take(request("b", 105, 9, [3]))
    assert isinstance(sent, FeatureEvent)
    sent = replace(
        sent,
        context_fids=np.concatenate([sent.context_fids, make_fids(4, [55])]),
        context_lengths=np.array([1, 0, 1, 1], np.uint16),
    )
    SPEC.check_feature(sent)
    other = parse_spec(TEXT % HISTORIES.replace("max_values = 3\n", "max_values = 1\n").replace('"watch"', '"buy"', 1))
    again = HistoryFiller(SPEC, other)
    _, _, _, taken, later = (again.take(event) for event in [*recorded, sent, filler.take(request("c", 106, 7, [5]))])
    assert isinstance(taken, FeatureEvent)
    assert isinstance(later, FeatureEvent)
    for event in (taken, later):
        other.check_feature(event)
    assert value_of(taken.context_fids).tolist() == [9, 105 % 24, 55]
    assert value_of(later.context_fids).tolist() == [7, 1, 106 % 24, 1, 101]
    plain = HistoryFiller(SPEC, PLAIN).take(sent)
    assert isinstance(plain, FeatureEvent)
    PLAIN.check_feature(plain)
    assert plain.context_lengths is None
    assert value_of(plain.context_fids).tolist() == [9, 105 % 24]


def test_requests_are_forgotten_by_number_whatever_their_times_and_counted() -> None:
    filler = HistoryFiller(PLAIN, SPEC, max_requests=2)
    # Of two label windows later, then from the future, then of before.
    for event in (request("a", 100, 7, [1]), request("b", 10**8, 7, [1]), ActionEvent("a", 110, 10, "watch")):
        filler.take(event)
    assert (filler.forgotten_requests, filler.unknown_actions) == (0, 0)
    filler.take(request("c", 111, 7, [1]))
    filler.take(ActionEvent("a", 112, 10, "watch"))
    assert (filler.forgotten_requests, filler.unknown_actions) == (1, 1)
    filler.take(ActionEvent("b", 10**8, 10, "watch"))
    assert filler.unknown_actions == 1


def test_actions_of_a_clock_that_is_ahead_do_not_empty_the_histories_after_them() -> None:
    events: list[Event] = []
    for number in range(8):
        at_ms = 10**6 if number < 4 else 100
        events += [
            request(f"q{number}", at_ms, 7, [number + 1]),
            ActionEvent(f"q{number}", at_ms + 1, 10 * number + 10, "watch"),
        ]
    assert filled([*events, request("last", 110, 7, [1])])[-1]["watched"] == [8, 7, 6]


def test_a_request_id_that_comes_again_long_after_is_no_end_of_the_stream() -> None:
    again = [request("a", 100, 7, [1]), request("a", 10**8, 7, [1]), request("b", 10**8 + 1, 7, [1])]
    assert len(filled(again)) == 3


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"spec_hash": 12345}, "spec"),
        ({"context_fids": make_fids(1, [7])}, "context fids"),
        ({"item_lengths": np.array([1], np.uint16)}, "item lengths"),
    ],
)
def test_an_event_that_is_not_of_the_recorded_spec_is_refused_before_its_columns_are_used(
    changed: dict[str, object], why: str
) -> None:
    filler = HistoryFiller(PLAIN, SPEC)
    with pytest.raises(RecordError, match=why):
        filler.take(replace(request("a", 100, 7, [2]), **changed))  # type: ignore[arg-type]
    filler.take(ActionEvent("a", 101, 20, "watch"))
    assert filler.unknown_actions == 1


def test_specs_with_other_columns_are_refused() -> None:
    with pytest.raises(SpecError, match=r"differs from the recorded one, films .* in columns that are no history"):
        HistoryFiller(PLAIN, replace(SPEC, dense=(DenseFeature("price"),)))
