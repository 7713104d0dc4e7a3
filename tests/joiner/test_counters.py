"""Counts over the newest minutes of traffic: a mistake shows soon, and is soon forgotten once it is mended."""

from __future__ import annotations

from rillet.joiner import RecentCounts


def test_the_past_is_forgotten_after_the_window() -> None:
    recent = RecentCounts(window_s=120, least=100)
    for second in range(0, 10_000, 2):
        recent.add(second, {"actions": 10 * second, "unknown": 0}, 10 * second)
    assert recent.grown() == {"actions": 1_200, "unknown": 0}
    for second in range(10_000, 10_030, 2):
        recent.add(second, {"actions": 10 * second, "unknown": 10 * (second - 9_998)}, 10 * second)
    grown = recent.grown()
    assert grown["unknown"] / grown["actions"] >= 0.25, "a mistake shows within half a minute"
    for second in range(10_030, 10_152, 2):
        recent.add(second, {"actions": 10 * second, "unknown": 300}, 10 * second)
    assert recent.grown() == {"actions": 1_200, "unknown": 0}


def test_without_traffic_the_newest_records_are_still_told_of_and_what_becomes_of_them() -> None:
    recent = RecentCounts(window_s=120, least=100)
    recent.add(0, {"actions": 0, "orphans": 0}, 0)
    recent.add(10, {"actions": 300, "orphans": 0}, 300)
    for second in range(12, 4_000, 2):
        recent.add(second, {"actions": 300, "orphans": 200 * (second > 700)}, 300)
    assert recent.grown() == {"actions": 300, "orphans": 200}


def test_of_little_traffic_a_hundred_records_are_recent() -> None:
    recent = RecentCounts(window_s=120, least=100)
    for minute in range(1_000):
        recent.add(60 * minute, {"actions": minute}, minute)
    assert recent.grown() == {"actions": 100}


def test_before_the_first_counts_nothing_has_grown() -> None:
    assert RecentCounts().grown() == {}
