"""Which events and which part of the topics the rows of a range of requests are made of."""

from __future__ import annotations

import pytest

from rillet.joiner import JoinerConfig, RequestRange, SliceSchedule
from tests.joiner.support import SPEC, action, feature

RANGE = RequestRange(1_000_000, 2_000_000)
EARLY_MS = max(task.early_ms for task in SPEC.tasks)
LONGEST_MS = max(task.window_ms for task in SPEC.tasks)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (feature(1, RANGE.from_ms - 1), False),
        (feature(1, RANGE.from_ms), True),
        (feature(1, RANGE.until_ms - 1), True),
        (feature(1, RANGE.until_ms), False),
        (action(1, 0, "watch", RANGE.from_ms - EARLY_MS - 1), False),
        (action(1, 0, "watch", RANGE.from_ms - EARLY_MS), True),
        (action(1, 0, "watch", RANGE.until_ms + LONGEST_MS - 1), True),
        (action(1, 0, "watch", RANGE.until_ms + LONGEST_MS), False),
    ],
)
def test_requests_of_the_range_and_the_actions_that_may_be_on_them_are_wanted(event: object, wanted: bool) -> None:
    assert RANGE.wants(event, SPEC) is wanted  # type: ignore[arg-type]


def test_reading_begins_before_the_range_by_as_much_as_a_clock_may_be_ahead() -> None:
    assert RANGE.read_from_ms(SPEC, JoinerConfig(max_ahead_ms=60_000)) == RANGE.from_ms - EARLY_MS - 60_000
    assert RANGE.read_from_ms(SPEC, JoinerConfig(max_ahead_ms=3_600_000)) == 0


def test_reading_ends_when_the_last_window_is_closed() -> None:
    config = JoinerConfig(slice_ms=10_000)
    schedule = SliceSchedule(SPEC, config)
    last = max(schedule.close_ms(schedule.slice_of(RANGE.until_ms - 1), task) for task in range(len(SPEC.tasks)))
    end_ms = RANGE.read_until_ms(SPEC, config, lateness_ms=5_000)
    assert last <= end_ms - 5_000 <= last + schedule.slice_ms + 1


def test_a_range_without_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match="--until has to be a later time than --from"):
        RequestRange(5, 5)
