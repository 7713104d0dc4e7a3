"""How timers that are due together share the time of their task."""

from __future__ import annotations

import pytest

from rillet.operators.turns import Turn


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def timer(turn: Turn, clock: Clock, took_s: float) -> bool:
    """One timer; whether the turn was over at its end."""
    turn.begin()
    clock.now_s += took_s
    over = turn.is_over()
    turn.end()
    return over


def test_timers_one_right_after_the_other_share_a_turn(clock: Clock) -> None:
    turn = Turn(clock)
    assert [timer(turn, clock, 0.004) for _ in range(4)] == [False, False, True, True]


def test_a_record_or_a_pause_begins_another_turn(clock: Clock) -> None:
    turn = Turn(clock)
    assert timer(turn, clock, 0.020)
    turn.interrupt()
    assert not timer(turn, clock, 0.004)
    assert timer(turn, clock, 0.020)
    clock.now_s += 0.002
    assert not timer(turn, clock, 0.004)


def test_what_is_put_off_in_one_turn_does_not_come_due_together(clock: Clock) -> None:
    turn = Turn(clock)
    turn.begin()
    delays = [turn.put_off_ms() for _ in range(100)]
    assert len(set(delays)) == 100
    assert min(delays) >= 5
    turn.end()
    turn.interrupt()
    turn.begin()
    assert turn.put_off_ms() == delays[0]


def test_reports_are_a_second_apart(clock: Clock) -> None:
    turn = Turn(clock)
    found = []
    for _ in range(8):
        found.append(turn.is_time_to_report())
        clock.now_s += 0.3
    assert found == [True, False, False, False, True, False, False, False]
