"""What is kept of a history: against a plain reference that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import Slot
from rillet.schemas.histories import RecentValues

#: (time, value) as they are added
ADDED = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=12)


def newest_first(added: list[tuple[int, int]], at_ms: int, max_values: int, max_age_ms: int) -> list[int]:
    """All that was added, each value at its newest time, of equal times the last one added first; then cut."""
    newest: dict[int, tuple[int, int]] = {}
    for number, (time_ms, value) in enumerate(added):
        newest[value] = max(newest.get(value, (-1, -1)), (time_ms, number))
    kept = sorted(newest, key=lambda value: newest[value], reverse=True)[:max_values]
    oldest_ms = at_ms - max_age_ms if max_age_ms else 0
    return [value for value in kept if oldest_ms <= newest[value][0] < at_ms]


@given(ADDED, st.integers(1, 3), st.integers(0, 3), st.integers(0, 6))
def test_distinct_values_newest_first_whatever_order_they_come_in(
    added: list[tuple[int, int]], max_values: int, max_age_ms: int, at_ms: int
) -> None:
    recent = RecentValues(max_values, max_age_ms)
    for time_ms, value in added:
        recent.add(1, time_ms, [value])
    assert recent.at(1, at_ms) == newest_first(added, at_ms, max_values, max_age_ms)


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
