"""A logger for what may happen a thousand times a second: one line per kind every ten seconds, with a count."""

from __future__ import annotations

import logging
from collections.abc import Callable


class RateLimitedLog:
    """Holds lines back, by kind; the next line of a kind says how many were held back before it.

    >>> import logging
    >>> limited = RateLimitedLog(logging.getLogger("example"), clock=lambda: 0.0)
    >>> for attempt in range(3):
    ...     limited.warning("poll", "attempt %d failed", attempt)  # only the first is written
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float], every_s: float = 10.0) -> None:
        """
        :param clock: monotonic seconds.
        :param every_s: seconds between two lines of one kind.
        """
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._last_s: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def info(self, kind: str, message: str, *arguments: object) -> None:
        """Logs at INFO, unless a line of this kind was written within ``every_s``."""
        self._write(logging.INFO, kind, message, arguments)

    def warning(self, kind: str, message: str, *arguments: object) -> None:
        """The same at WARNING."""
        self._write(logging.WARNING, kind, message, arguments)

    def error(self, kind: str, message: str, *arguments: object) -> None:
        """The same at ERROR."""
        self._write(logging.ERROR, kind, message, arguments)

    def _write(self, level: int, kind: str, message: str, arguments: tuple[object, ...]) -> None:
        now = self._clock()
        if now - self._last_s.get(kind, float("-inf")) < self._every_s:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return
        held = self._held_back.pop(kind, 0)
        self._last_s[kind] = now
        self._log.log(
            level, message + (" (%d more like this before)" if held else ""), *arguments, *([held] if held else [])
        )
