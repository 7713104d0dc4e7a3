"""Log lines about something that may happen a thousand times a second: one every ten seconds, with a count."""

from __future__ import annotations

import logging
from collections.abc import Callable


class Reporter:
    """Keeps count of what it holds back; the next line of the same kind says how many there were."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float], every_s: float = 10.0) -> None:
        """:param clock: monotonic seconds."""
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._said: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def info(self, kind: str, message: str, *arguments: object) -> None:
        """Logs at INFO unless a line of this kind was logged just before."""
        self._report(logging.INFO, kind, message, arguments)

    def warn(self, kind: str, message: str, *arguments: object) -> None:
        """Logs at WARNING likewise."""
        self._report(logging.WARNING, kind, message, arguments)

    def error(self, kind: str, message: str, *arguments: object) -> None:
        """Logs at ERROR likewise."""
        self._report(logging.ERROR, kind, message, arguments)

    def _report(self, level: int, kind: str, message: str, arguments: tuple[object, ...]) -> None:
        now = self._clock()
        if now - self._said.get(kind, float("-inf")) < self._every_s:
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        held = self._held.pop(kind, 0)
        self._said[kind] = now
        self._log.log(
            level, message + (" (%d more like this before)" if held else ""), *arguments, *([held] if held else [])
        )
