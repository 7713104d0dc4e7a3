"""Timers of the joiner's adapter to Flink: what is put off, and what a drain finds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from tests.joiner.support import SPEC, action, feature
from tests.operators.joiner_runner import Runner, Silence, of
from tests.simulation.joiner_oracle import oracle, rows_of


def test_timers_of_the_wall_clock_do_not_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, buckets, fired = Runner(JoinerConfig(), tmp_path, Silence(), FlinkConfig(idle_ms=30_000)), 16, 0
    pause = random.Random(1)
    for bucket in range(buckets):
        runner.send(of(feature(bucket, runner.keyed.now_ms)), bucket)
    act = of(action(1, 0, "unknown", runner.keyed.now_ms))
    on_timer = runner.function.on_timer

    def counted(*args: Any) -> Any:
        nonlocal fired
        fired += 1
        return on_timer(*args)

    monkeypatch.setattr(runner.function, "on_timer", counted)
    for count in range(60 * 50):
        if count == 30 * 50:
            fired = 0
        runner.send(act, count % buckets)
        runner.wait(pause.randrange(41))
    assert fired <= 30 + 3 * buckets, "a report per second, and a look per bucket and half the idle time"


@pytest.mark.parametrize("restarted", [False, True])
def test_buckets_that_are_due_together_take_turns_with_records_and_checkpoints(tmp_path: Path, restarted: bool) -> None:
    config = JoinerConfig(slice_ms=5_000, action_wait_ms=60_000, buckets=64)
    runner = Runner(config, tmp_path)
    shown = [feature(number, 20_500, impressions=12) for number in range(640)]
    for number, event in enumerate(shown):
        runner.send(of(event), number % 64)
    advance, calls = runner.function._joiner.advance, [0]

    def slow(*arguments: Any) -> Any:
        runner.took_s += 0.003
        calls[0] += 1
        return advance(*arguments)

    runner.function._joiner.advance = slow  # type: ignore[method-assign]
    runner.advance(100_000)
    assert calls[0] <= 5, "the rest waits for another turn"
    assert len(runner.keyed.wall_timers) >= 59
    rows = len(rows_of(SPEC, runner.blocks))
    runner.wait(4)
    assert len(rows_of(SPEC, runner.blocks)) == rows, "there is time for records in between"
    if restarted:
        runner.keyed.watermark = -(1 << 63)
        runner.restart()
        runner.wait(2_000)
        runner.advance(100_000)
    runner.wait(2_000)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, shown, [])
    assert not any(runner.keyed.entries.values())


def test_a_drain_closes_what_was_put_off(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000, buckets=64), tmp_path)
    shown = [feature(number, 20_500, impressions=12) for number in range(64)]
    for number, event in enumerate(shown):
        runner.send(of(event), number)
    runner.function._turn.is_over = lambda: True  # type: ignore[method-assign]
    runner.advance(34_999)
    assert runner.blocks == []
    runner.advance(END_OF_TIME_MS)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, shown, [])


@pytest.mark.parametrize("silence", [None, Silence()])
def test_the_wall_clock_forgets_nothing_after_a_drain(tmp_path: Path, silence: Silence | None) -> None:
    """Its timers still fire once the last watermark has come, until the task ends."""
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500)))
    runner.function._turn.is_over = lambda: True  # type: ignore[method-assign]
    runner.advance(34_999)
    runner.advance(END_OF_TIME_MS)
    runner.function._turn.is_over = lambda: False  # type: ignore[method-assign]
    runner.wait(10_000)
    rows = len(runner.blocks)
    runner.restart()
    runner.keyed.watermark = -(1 << 63)
    runner.send(of(feature(1, 20_500)))
    runner.send(of(feature(2, 21_000)))
    runner.send(of(action(1, 0, "watch", 22_000)))
    runner.wait(1_000)
    assert runner.letters == []
    assert (runner.metric("duplicate_features"), runner.metric("late_actions")) == (1, 1)
    assert len(runner.blocks) == rows
