"""What a person reads while the demo runs."""

from __future__ import annotations

import io
import math

from rich.console import Console

from rillet.demo.display import Display, describe
from rillet.demo.driver import DriveStats
from rillet.demo.monitor import Reading


def reading(wall_s: float, requests: int = 0, actions: int = 0, auc: float = 0.61) -> Reading:
    return Reading(wall_s, requests, actions, 12_345, 678, 9, auc, 2.5)


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, highlight=False), out


def test_a_line_has_every_number_and_a_dash_for_what_is_not_known_yet() -> None:
    line = describe(reading(7, 1000, 2000, auc=math.nan), 50_000, 431.2)
    for part in (
        "1,000/50,000 requests",
        "431 events/s",
        "12,345 examples",
        "AUC served -",
        "2.5 s",
        "rows 678",
        "lag 9",
    ):
        assert part in line


def test_the_rate_is_that_between_two_readings() -> None:
    plain, out = console(terminal=False)
    with Display(DriveStats(100), plain) as display:
        display.show(reading(10, requests=100, actions=200))
        display.show(reading(12, requests=120, actions=280))
    assert "50 events/s" in out.getvalue().splitlines()[-1]


def test_without_a_terminal_lines_do_not_follow_one_another_every_second() -> None:
    plain, out = console(terminal=False)
    with Display(DriveStats(100), plain) as display:
        for second in range(5):
            display.show(reading(second))
    # the first, and the last as the block ends
    assert len(out.getvalue().splitlines()) == 2


def test_on_a_terminal_the_table_goes_and_the_last_line_stays() -> None:
    terminal, out = console(terminal=True)
    with Display(DriveStats(200), terminal) as display:
        display.say("broker ready")
        display.show(reading(3, requests=50))
    text = out.getvalue()
    assert "broker ready" in text
    assert text.rstrip().splitlines()[-1].endswith("lag 9")
