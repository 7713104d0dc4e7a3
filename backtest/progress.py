"""Progress on stderr: a bar with the time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_S = 10.0


class Report(Protocol):
    """Takes what is done and what there is to do."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def show_progress(console: Console, what: str) -> Iterator[Report]:
    """Gives the function to be called with progress."""
    if not console.is_terminal:
        yield _Lines(console, what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, console: Console, what: str) -> None:
        self._console, self._what = console, what
        self._last = monotonic()
        #: when the first requests were through, and how many: before that come imports
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        self._first = self._first or (now, done)
        since, before = self._first
        if done <= before or now - self._last < _LINE_S:
            return
        self._last = now
        left_s = (now - since) / (done - before) * (total - done)
        line = f"{self._what}: {done:,} of {total:,} requests, {left_s:,.0f} s left"
        self._console.print(line, markup=False, soft_wrap=True)
