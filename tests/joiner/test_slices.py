"""When slices close and expire."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner import JoinerConfig, JoinerError, SliceSchedule
from rillet.schemas import FeatureSpec, dump_spec, parse_spec
from tests.joiner.support import SPEC

CONFIG = JoinerConfig(slice_ms=1_000, action_wait_ms=30_000, late_retention_ms=7_000)
CORRECT = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "correct"', 1))
WATCH, LIKE = 0, 1


@given(st.integers(0, 10**13), st.integers(300, 100_000), st.sampled_from([WATCH, LIKE]))
def test_no_window_of_a_slice_ends_after_its_close(time_ms: int, slice_ms: int, task: int) -> None:
    schedule = SliceSchedule(SPEC, replace(CONFIG, slice_ms=slice_ms))
    last_valid_ms = time_ms + SPEC.tasks[task].window_ms - 1
    close_ms = schedule.close_ms(schedule.slice_of(time_ms), task)
    # A watermark promises that nothing at or before it is still to come.
    assert last_valid_ms <= close_ms <= last_valid_ms + slice_ms


@pytest.mark.parametrize("spec", [SPEC, CORRECT])
def test_a_slice_is_kept_for_the_longest_window(spec: FeatureSpec) -> None:
    assert SliceSchedule(spec, CONFIG).expiry_ms(5) == 6_000 + 60_000 - 1


def test_a_task_that_emits_late_positives_keeps_slices_longer() -> None:
    both = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "correct"'))
    assert SliceSchedule(both, CONFIG).expiry_ms(5) == 6_000 + 60_000 + 7_000 - 1
    assert SliceSchedule(CORRECT, replace(CONFIG, late_retention_ms=55_000)).expiry_ms(5) == 6_000 + 10_000 + 55_000 - 1


def test_an_action_waits_for_at_least_the_configured_time() -> None:
    schedule = SliceSchedule(SPEC, CONFIG)
    assert schedule.waiting_expiry_ms(schedule.slice_of(5_999)) >= 5_999 + 30_000


@given(st.integers(-(10**13), 10**13), st.integers(300, 100_000), st.sampled_from([WATCH, LIKE]))
def test_the_first_slice_that_closes_after_a_time_is_found_by_arithmetic(
    time_ms: int, slice_ms: int, task: int
) -> None:
    schedule = SliceSchedule(SPEC, replace(CONFIG, slice_ms=slice_ms))
    first = schedule.first_after(time_ms, task)
    assert schedule.close_ms(first - 1, task) <= time_ms < schedule.close_ms(first, task)
    assert schedule.close_at(schedule.close_ms(first, task), task) == first
    assert schedule.close_at(schedule.close_ms(first, task) + 1, task) is None


def test_times_before_1970_fall_into_slices_like_others() -> None:
    schedule = SliceSchedule(SPEC, CONFIG)
    assert [schedule.slice_of(t) for t in (-1_001, -1_000, -1, 0)] == [-2, -1, -1, 0]


def test_slices_too_short_for_the_longest_window_are_refused_with_a_good_length() -> None:
    with pytest.raises(JoinerError, match=r"slice_ms: slices of 100 ms kept for 60000 ms are 602.*set 237 or more"):
        SliceSchedule(SPEC, replace(CONFIG, slice_ms=100))
    assert SliceSchedule(SPEC, replace(CONFIG, slice_ms=237)).live_slices <= 256
    assert SliceSchedule(SPEC, replace(CONFIG, slice_ms=0)).slice_ms == 60_000 // 16


def test_actions_that_may_be_earlier_than_they_can_wait_are_refused_with_both_settings() -> None:
    spec = parse_spec(dump_spec(SPEC).replace("early_ms = 5000", "early_ms = 60000", 1))
    with pytest.raises(JoinerError, match=r"action_wait_ms: 30000 is less than early_ms of task watch .* 60000"):
        SliceSchedule(spec, CONFIG)
    SliceSchedule(spec, replace(CONFIG, action_wait_ms=60_000))
