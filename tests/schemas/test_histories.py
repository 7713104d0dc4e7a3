"""What is kept of a history: against a plain reference that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import Slot
from rillet.schemas.histories import RecentValues

#: (time, value) as they are added
ADDED = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=12)


def newest_first(added: list[tuple[int, int]], at_ms: int, max_age_ms: int) -> list[int]:
    """Of all that was added, each value at its newest time, of equal times the last one added first: what is visible."""
    newest: dict[int, tuple[int, int]] = {}
    for number, (time_ms, value) in enumerate(added):
        newest[value] = max(newest.get(value, (-1, -1)), (time_ms, number))
    oldest_ms = at_ms - max_age_ms if max_age_ms else 0
    kept = sorted(newest, key=lambda value: newest[value], reverse=True)
    return [value for value in kept if oldest_ms <= newest[value][0] < at_ms]


@given(ADDED, st.integers(1, 3), st.integers(0, 3), st.integers(5, 6))
def test_distinct_values_newest_first_whatever_order_they_come_in(
    added: list[tuple[int, int]], max_values: int, max_age_ms: int, at_ms: int
) -> None:
    recent = RecentValues(max_values, max_age_ms)
    for time_ms, value in added:
        recent.add(1, time_ms, [value])
    assert recent.at(1, at_ms) == newest_first(added, at_ms, max_age_ms)[:max_values]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 3), st.integers(0, 3), st.integers(0, 4))
def test_what_is_too_new_is_left_out_and_the_others_keep_their_order(
    times: list[int], max_values: int, max_age_ms: int, at_ms: int
) -> None:
    added = [(time_ms, value) for value, time_ms in enumerate(times)]
    recent = RecentValues(max_values, max_age_ms)
    for time_ms, value in added:
        recent.add(1, time_ms, [value])
    visible, found = newest_first(added, at_ms, max_age_ms), recent.at(1, at_ms)
    assert found == [value for value in visible if value in found]
    assert len(found) <= max_values


@given(st.lists(st.integers(0, 50), max_size=8), st.lists(st.integers(0, 10), min_size=3, max_size=30))
def test_actions_of_a_clock_that_is_ahead_crowd_out_nothing_that_comes_after_them(
    ahead: list[int], times: list[int]
) -> None:
    recent = RecentValues(3)
    for number, time_ms in enumerate(ahead):
        recent.add(1, 1_000 + time_ms, [1_000 + number])
    for number, time_ms in enumerate(sorted(times)):
        recent.add(1, time_ms, [number])
    assert recent.at(1, 11) == [len(times) - 1, len(times) - 2, len(times) - 3]


def test_a_value_that_was_added_with_a_time_ahead_is_seen_when_it_is_added_again() -> None:
    recent = RecentValues(3)
    recent.add(1, 10**6, [7])
    recent.add(1, 5, [7])
    assert (recent.at(1, 6), recent.at(1, 10**6 + 1)) == ([7], [7])


def test_no_more_is_kept_than_twice_what_is_given_for_a_key() -> None:
    recent = RecentValues(3)
    for number in range(100):
        recent.add(1, 1_000 if number < 5 else number, [number])
        assert len(recent._entries[1]) <= 6


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60), st.integers(1, 4))
def test_least_recently_used_keys_are_dropped_and_counted(uses: list[tuple[bool, int]], max_keys: int) -> None:
    recent = RecentValues(3, max_keys=max_keys)
    order: list[int] = []
    dropped = 0
    for add, key in uses:
        if add:
            recent.add(key, 1, [100 + key])
        assert recent.at(key, 2) == ([100 + key] if add or key in order else [])
        if add or key in order:
            order = [other for other in order if other != key] + [key]
        if len(order) > max_keys:
            del order[0]
            dropped += 1
    assert (len(recent), recent.dropped_keys) == (len(order), dropped)


def test_values_that_come_together_keep_their_order_and_are_given_as_they_were_named() -> None:
    recent = RecentValues(3)
    recent.add(1, 5, [1, 2], ["War", "Drama"])
    recent.add(1, 9, [3, 1], ["Comedy", "War"])
    assert recent.at(1, 10) == ["Comedy", "War", "Drama"]
    assert recent.at(2, 10) == []


def test_a_slot_that_is_no_history_has_none() -> None:
    with pytest.raises(ValueError, match="slot film is no history"):
        RecentValues.of_slot(Slot("film", 16, "id"))
