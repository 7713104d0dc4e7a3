"""Progress away from a terminal: now and then a line, with the time that is left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rillet.backtest import progress
from rillet.backtest.progress import show_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its only entry."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_tells_the_time_left_by_the_pace_since_the_first_requests(clock: list[float]) -> None:
    out = io.StringIO()
    with show_progress(Console(file=out), "backtest") as report:
        clock[0] = 130.0  # half a minute of imports
        report(1_000, 10_000)
        assert out.getvalue() == ""
        clock[0] = 135.0
        report(2_000, 10_000)
        assert out.getvalue() == "backtest: 2,000 of 10,000 requests, 40 s left\n"
        clock[0] = 144.9
        report(3_000, 10_000)
        clock[0] = 145.0
        report(4_000, 10_000)
    assert out.getvalue().splitlines()[1:] == ["backtest: 4,000 of 10,000 requests, 30 s left"]


def test_a_name_in_brackets_is_printed_as_it_is(clock: list[float]) -> None:
    out = io.StringIO()
    with show_progress(Console(file=out), "[red]8 settings[/red]") as report:
        report(0, 10)
        clock[0] += 10
        report(5, 10)
    assert out.getvalue().startswith("[red]8 settings[/red]: 5 of 10")


def test_on_a_terminal_there_is_a_bar_that_is_gone_at_the_end() -> None:
    out = io.StringIO()
    with show_progress(Console(file=out, force_terminal=True, width=120), "backtest") as report:
        report(5, 10)
    assert "5/10" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K"), "the line is cleared"
