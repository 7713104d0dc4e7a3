"""Progress of a long pass over events: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0
_BAR_EVERY_S = 0.2


class EventProgress:
    """A context manager; :meth:`update` is cheap enough to be called for every event."""

    def __init__(self, title: str, total: int | None, console: Console | None = None) -> None:
        """
        :param total: events to come, None when that is not known.
        """
        self._console = console or Console(stderr=True)
        self._title, self._total = title, total
        self._started = self._shown = time.monotonic()
        self._done = 0
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(title, total=total, rate="")

    def update(self, done: int) -> None:
        """Reports that ``done`` events have been processed so far."""
        self._done = done
        if done % 64:
            return
        now = time.monotonic()
        if now - self._shown < (_BAR_EVERY_S if self._bar else _LINE_EVERY_S):
            return
        self._shown = now
        self._show(now)

    def _show(self, now: float) -> None:
        rate = f"{self._done / max(now - self._started, 1e-3):,.0f} events/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=rate)
        else:
            of = f" of {self._total:,}" if self._total is not None else ""
            self._console.print(f"{self._title}: {self._done:,}{of} events, {rate}", highlight=False)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._show(time.monotonic())
        if self._bar is not None:
            self._bar.stop()
