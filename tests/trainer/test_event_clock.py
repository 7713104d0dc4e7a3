"""The trainer's clock: wrong clocks of producers neither move it for good nor stop it."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.trainer.event_clock import MAX_STEP_MS, EventClock

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000


def feed(clock: EventClock, requests: int, first_ms: int, *, ahead_ms: int = 0, gap_ms: int = 500) -> int:
    """Requests of five rows, one batch each; returns when the next one is due."""
    for request in range(requests):
        clock.add(np.full(5, first_ms + request * gap_ms + ahead_ms))
    return first_ms + requests * gap_ms


@pytest.mark.parametrize(
    ("warm", "wrong"), [(0, 1), (0, 2), (3, 2), (4, 2), (1100, 64), (1100, 100), (1100, 511), (1100, 1100)]
)
def test_wrong_clocks_stop_nothing_once_they_are_right_again(warm: int, wrong: int) -> None:
    clock = EventClock()
    at = feed(clock, warm, START_MS)
    at = feed(clock, wrong, at, ahead_ms=365 * DAY_MS)
    at = feed(clock, 2100, at)
    assert 0 < at - clock.now_ms < 1024 * 500
    assert 0 < at - clock.newest_ms < 1024 * 500
    before = clock.decay_ms
    feed(clock, 1500, at)
    assert clock.decay_ms - before == pytest.approx(1500 * 500, rel=0.05)


def test_a_tenth_of_all_clocks_a_year_ahead_moves_neither_stamps_nor_decay() -> None:
    clock = EventClock()
    at = feed(clock, 2000, START_MS)
    for _ in range(400):
        at = feed(clock, 9, at)
        at = feed(clock, 1, at, ahead_ms=365 * DAY_MS)
        assert clock.now_ms <= at
    assert clock.decay_ms - START_MS == pytest.approx(at - START_MS, rel=0.1)


def test_two_events_at_the_very_start_do_not_tell_the_time_against_the_rest() -> None:
    clock = EventClock()
    feed(clock, 2, START_MS, ahead_ms=365 * DAY_MS)
    feed(clock, 5, START_MS)
    assert clock.now_ms == clock.newest_ms == START_MS


def test_a_pause_forgets_no_more_than_the_rows_after_it_can_replace() -> None:
    clock = EventClock()
    at = feed(clock, 2000, START_MS)
    before = clock.decay_ms
    at = feed(clock, 1024, at + 30 * DAY_MS)
    assert at - clock.now_ms < 1024 * 500
    assert clock.decay_ms - before < 5 * MAX_STEP_MS + 2048 * 500


def test_it_goes_on_from_its_state() -> None:
    whole, first, second = EventClock(), EventClock(), EventClock()
    at = feed(whole, 1500, START_MS)
    feed(first, 1500, START_MS)
    times, clocks = first.state()
    second.load_state(times.copy(), clocks)
    feed(whole, 700, at, ahead_ms=DAY_MS)
    feed(second, 700, at, ahead_ms=DAY_MS)
    assert second.state()[1] == whole.state()[1]
    np.testing.assert_array_equal(second.state()[0], whole.state()[0])
