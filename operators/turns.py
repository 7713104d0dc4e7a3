"""How long the timers of one turn of Flink's task have taken, so that they leave time for records and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

#: what timers may take before the rest is put off
_TURN_S = 0.010
#: a pause between two timers in which the task did something else
_PAUSE_S = 0.001
#: how long the first is put off, and how much longer each of the others
_FIRST_MS, _MORE_MS = 5, 2
_REPORT_S = 1.0


class Turn:
    """The timers that are fired one right after the other.

    >>> now = iter((0.0, 0.004, 0.0041, 0.0110, 0.0111, 0.0120, 0.2))
    >>> turn = Turn(lambda: next(now))
    >>> turn.begin(), turn.end(), turn.begin(), turn.is_over(), turn.put_off_ms(), turn.end(), turn.put_off_ms()
    (None, None, None, True, 5, None, 7)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began_s = 0.0
        self._ended_s: float | None = None
        self._put_off = 0
        self._reported_s: float | None = None

    def interrupt(self) -> None:
        """A record came: the next timer begins a turn."""
        self._ended_s = None

    def begin(self) -> None:
        """A timer is fired."""
        now_s = self._clock()
        if self._ended_s is None or now_s - self._ended_s > _PAUSE_S:
            self._began_s, self._put_off = now_s, 0

    def end(self) -> None:
        """It is done."""
        self._ended_s = self._clock()

    def is_over(self) -> bool:
        """Whether the timers of this turn have taken their time."""
        return self._clock() - self._began_s > _TURN_S

    def put_off_ms(self) -> int:
        """For how long the next thing is put off: each longer than the one before it, so that they do not meet again."""
        self._put_off += 1
        return _FIRST_MS + _MORE_MS * (self._put_off - 1)

    def is_time_to_report(self) -> bool:
        """Whether a second has passed since this was last so."""
        now_s = self._clock()
        if self._reported_s is not None and now_s - self._reported_s < _REPORT_S:
            return False
        self._reported_s = now_s
        return True
