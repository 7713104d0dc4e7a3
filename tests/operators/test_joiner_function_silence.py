"""When windows close while topics are silent: by the wall clock, or held back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import (
    ActionEvent,
    FeatureEvent,
    LabelKind,
    decode,
)
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, key_of, stream
from tests.operators.joiner_runner import FLINK, Metrics, Runner, Silence, of, record
from tests.simulation.joiner_oracle import oracle, rows_of


def test_windows_close_by_the_wall_clock_while_nothing_comes_and_all_is_read(tmp_path: Path) -> None:
    _, _, arrivals = stream(11, requests=60)
    del arrivals[len(arrivals) // 2 :]
    config, silence = JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), Silence()
    runner = Runner(config, tmp_path, silence)
    newest = 0
    for bucket, time_ms, data in arrivals:
        runner.send(record(data, key_of(data)), bucket)
        newest = max(newest, time_ms)
        runner.advance(newest - LATENESS_MS - 1)
    before = len(runner.blocks)
    runner.wait(400_000)
    assert len(runner.blocks) == before, "something is left to be read"
    silence.quiet = 9_000
    runner.wait(10_000)
    waiting = runner.metric("next_close_ms")
    assert 0 <= waiting - (newest - LATENESS_MS + 9_000) <= 5_000 + 60_000, "time went on by as much as nothing came"
    silence.quiet = 150_000
    runner.wait(10_000)
    events = [decode(data) for _, _, data in arrivals]
    expected = oracle(
        SPEC, [e for e in events if isinstance(e, FeatureEvent)], [e for e in events if isinstance(e, ActionEvent)]
    )
    assert rows_of(SPEC, runner.blocks) == expected
    assert (runner.metric("open_requests"), runner.metric("next_close_ms")) == (0, 0)
    rows = len(runner.blocks)
    runner.advance(newest + 300_000)  # the watermark of the next record
    assert len(runner.blocks) == rows
    assert not any(runner.keyed.entries.values())


def test_silence_closes_nothing_that_a_record_of_now_would_not_close(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=1_000, action_wait_ms=60_000), tmp_path, silence)
    now_ms = runner.keyed.now_ms
    runner.send(of(feature(1, now_ms - 100, impressions=12)))
    runner.advance(now_ms - 100 - LATENESS_MS)
    silence.quiet = 10**9  # of a clock that runs wild
    closes_ms = now_ms + 10_000 + LATENESS_MS
    runner.wait(closes_ms - now_ms - 1_000)
    assert runner.blocks == []
    runner.wait(3_000)
    assert runner.blocks
    assert runner.metric("watermark_ms") <= runner.keyed.now_ms - LATENESS_MS


def test_what_a_restart_finds_open_closes_though_there_is_no_watermark_yet(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=1_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 50_500, impressions=12)))
    runner.advance(50_500 - LATENESS_MS)
    runner.keyed.watermark = -(1 << 63)
    runner.restart()
    silence.quiet = 13_000
    runner.wait(5_000)
    assert runner.blocks == [], "time begins with the newest event, at most a slice before it"
    silence.quiet = 14_000
    runner.wait(5_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


@pytest.mark.parametrize("restarted", [False, True])
def test_in_silence_time_goes_at_the_pace_of_the_clock_on_an_old_recording(tmp_path: Path, restarted: bool) -> None:
    silence, newest_ms = Silence(), 600_500
    runner = Runner(JoinerConfig(slice_ms=3_000, action_wait_ms=600_000), tmp_path, silence)
    for request in range(151):
        runner.send(of(feature(request, newest_ms - 4_000 * request)))
        runner.send(of(action(10_000 + request, 0, "watch", newest_ms - 4_000 * request)))  # waits for ten minutes
    watermark_ms = newest_ms - LATENESS_MS
    runner.advance(watermark_ms)
    if restarted:
        runner.keyed.watermark, runner.keyed.metrics = -(1 << 63), Metrics()
        runner.restart()
    for quiet_ms in range(FLINK.idle_ms, 500_000, 20_000):
        silence.quiet = quiet_ms
        runner.wait(2_500)
        assert runner.metric("watermark_ms") <= watermark_ms + quiet_ms
    assert runner.metric("watermark_ms") > watermark_ms + quiet_ms - 5_000
    silence.quiet = None
    runner.wait(5_000)
    runner.send(of(feature(999, newest_ms + 700_000)))
    silence.quiet = 20_000
    runner.wait(5_000)
    reached_ms = newest_ms + 700_000 - LATENESS_MS + silence.quiet
    assert reached_ms - 3_000 <= runner.metric("watermark_ms") <= reached_ms, "another silence begins at other records"


def test_windows_wait_for_a_topic_that_is_silent_until_it_has_caught_up(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)

    def go_on_to(time_ms: int) -> None:
        runner.advance(time_ms)
        runner.wait(1_000)

    runner.send(of(feature(1, 20_500, impressions=3)))
    go_on_to(21_000)
    silence.silent = {"actions": 15_000}
    for time_ms in range(22_000, 900_000, 50_000):  # a producer stalls, while requests go on
        runner.send(of(feature(time_ms, time_ms, impressions=1)))
        go_on_to(time_ms)
    assert runner.blocks == [], "nothing is known of the actions"
    assert runner.metric("held_ms") == runner.keyed.watermark - 21_000
    assert runner.metric("silent_topic_ms.actions.count") == 15_000
    silence.silent, silence.is_behind = {}, True
    runner.wait(30_000)
    for index in range(3):  # what it had held back
        runner.send(of(action(1, index, "watch", 21_000 + index)))
    assert [(row[3], row[6]) for row in rows_of(SPEC, runner.blocks)] == [(1, LabelKind.POSITIVE)] * 3
    # The watermark may go on without a partition that comes back later than the others.
    go_on_to(runner.keyed.watermark + 1)
    runner.wait(30_000)
    assert len(runner.blocks) == 3
    silence.is_behind = False
    runner.wait(30_000)
    assert len({row[0] for row in rows_of(SPEC, runner.blocks)}) > 10
    assert (runner.metric("held_ms"), runner.metric("silent_topic_ms.actions.count")) == (0, 0)
    assert runner.metric("late_actions") == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_topic_that_stays_silent_holds_windows_for_as_long_as_is_set(tmp_path: Path, restarted: bool) -> None:
    silence = Silence()
    config = JoinerConfig(slice_ms=1_000, action_wait_ms=60_000)
    runner = Runner(config, tmp_path, silence, replace(FLINK, hold_ms=40_000))
    runner.send(of(feature(1, 20_500, impressions=12)))
    runner.advance(21_000)
    silence.silent = {"actions": 15_000}
    if restarted:
        runner.restart()
    runner.wait(2_000)
    closes_ms = 20_999 + 10_000
    for time_ms in (closes_ms, closes_ms + 39_999):
        runner.advance(time_ms)
        runner.wait(2_000)
        assert runner.blocks == []
    runner.advance(closes_ms + 40_000)
    runner.wait(2_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


def test_silence_of_both_topics_goes_on_from_the_time_that_one_has_held(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500, impressions=12)))
    runner.wait(1_000)
    runner.advance(21_000)
    runner.wait(2_000)
    silence.silent = {"actions": 15_000}
    runner.advance(500_000)
    runner.wait(2_000)
    silence.silent, silence.quiet = {"actions": 99_000, "features": 15_000}, 13_000
    runner.wait(2_000)
    assert runner.blocks == []
    silence.quiet = 14_000
    runner.wait(2_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


def test_silence_of_both_topics_closes_nothing_that_one_has_held_from_the_start_on(tmp_path: Path) -> None:
    """A joiner that starts while a producer stalls never sees a watermark that every topic was part of."""
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    silence.silent = {"actions": 15_000}
    runner.send(of(feature(1, 20_500, impressions=12)))
    runner.advance(20_000)
    runner.send(of(feature(2, 480_000, impressions=12)))
    runner.advance(500_000)
    runner.wait(2_000)
    for quiet_ms, tasks in ((5_000, set()), (16_000, {"watch"})):
        silence.silent, silence.quiet = {"actions": 480_000 + quiet_ms, "features": quiet_ms}, quiet_ms
        runner.wait(16_000)
        assert {row[2] for row in rows_of(SPEC, runner.blocks)} == tasks
    assert {row[0] for row in rows_of(SPEC, runner.blocks)} == {"r1"}


def test_a_drain_closes_what_a_silent_topic_holds(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500, impressions=12)))
    silence.silent = {"actions": 15_000}
    runner.advance(500_000)
    assert runner.blocks == []
    runner.advance(END_OF_TIME_MS)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch", "like"}
