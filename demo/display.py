"""What a person sees while the demo runs: a live table on a terminal, elsewhere one line per ten seconds."""

from __future__ import annotations

import math
import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rillet.demo.driver import DriveStats
from rillet.demo.monitor import Reading

_LINE_EVERY_S = 10.0


class Display:
    """A context manager; :meth:`say` for what happened, :meth:`show` for the numbers."""

    def __init__(self, stats: DriveStats, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._stats = stats
        self._live: Live | None = None
        self._last: Reading | None = None
        self._printed_s = 0.0
        self._last_rate = 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, reading: Reading) -> None:
        """Shows the loop as it is now; called about once per second, from any thread."""
        if self._last is not None and reading.wall_s > self._last.wall_s:
            events = reading.requests + reading.actions - self._last.requests - self._last.actions
            self._last_rate = events / (reading.wall_s - self._last.wall_s)
        self._last = reading
        if self._live is not None:
            self._live.update(self._table(reading))
        elif time.monotonic() - self._printed_s >= _LINE_EVERY_S:
            self._printed_s = time.monotonic()
            self.say(describe(reading, self._stats.total, self._last_rate))

    def _table(self, reading: Reading) -> Group:
        table = Table.grid(padding=(0, 3))
        for _ in range(6):
            table.add_column(justify="right")
        cells = [
            ("events/s", f"{self._last_rate:,.0f}"),
            ("examples trained", f"{reading.trained_rows:,}"),
            ("AUC served", _number(reading.auc, "{:.4f}")),
            ("freshness p50", _number(reading.freshness_s, "{:.1f} s")),
            ("rows served", f"{reading.replica_rows:,}"),
            ("replica lag", f"{reading.replica_lag:,}"),
        ]
        table.add_row(*(Text(name, style="dim") for name, _ in cells))
        table.add_row(*(Text(value, style="bold") for _, value in cells))
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            ProgressBar(self._stats.total, reading.requests, width=48),
            Text(f"{reading.requests:,} of {self._stats.total:,} requests, {reading.wall_s:,.0f} s"),
        )
        return Group(progress, table)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._last is not None:
            self.say(describe(self._last, self._stats.total, self._last_rate))


def describe(reading: Reading, total: int, events_per_s: float) -> str:
    """A reading as one line of text."""
    return (
        f"{reading.wall_s:5.0f} s  {reading.requests:,}/{total:,} requests  {events_per_s:,.0f} events/s  "
        f"{reading.trained_rows:,} examples trained  AUC served {_number(reading.auc, '{:.4f}')}  "
        f"freshness {_number(reading.freshness_s, '{:.1f} s')}  rows {reading.replica_rows:,}  lag {reading.replica_lag:,}"
    )


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
