"""What time it is, by the events that were learned from, and how much of that time the optimisers' sums forget.

A producer whose clock is wrong must not move time for all rows, and must not stop it once its clock is right again.
"""

from __future__ import annotations

from rillet.schemas import NO_TIME_MS
from rillet.schemas.arrays import Int64s
from rillet.trainer.recent_times import RecentTimes

#: newest events whose times tell what time it is
RECENT_EVENTS = 1_024
#: share of them that must have reached the time that is published as freshness
_REACHED_SHARE = 1 / 16
#: events that must have reached it at least, and below which all of them must have
_FEWEST_EVENTS = 8
#: most event time that a row may make the optimisers forget
MAX_STEP_MS = 20_000


class EventClock:
    """Time by the newest events; a few wrong ones among them do not move it, and it goes back where they do.

    >>> import numpy as np
    >>> clock = EventClock()
    >>> clock.add(np.arange(1_000, 2_000))
    >>> clock.newest_ms, clock.now_ms, clock.decay_ms
    (1937, 1500, 1500)
    >>> clock.add(np.full(1, 30_000_000))  # a wrong clock
    >>> clock.newest_ms, clock.now_ms
    (1938, 1500)
    """

    __slots__ = ("_recent", "decay_ms", "newest_ms", "now_ms")

    def __init__(self) -> None:
        self._recent = RecentTimes(RECENT_EVENTS)
        #: what a sixteenth of the newest events have reached; published as freshness
        self.newest_ms = NO_TIME_MS
        #: what half of them have reached; rows are stamped with it
        self.now_ms = NO_TIME_MS
        #: what the optimisers' sums decay by: goes on as ``now_ms`` does, by ``MAX_STEP_MS`` per row at most, and never
        #: back. So a pause or a jump forgets no more than the rows that come after it can replace.
        self.decay_ms = NO_TIME_MS

    def add(self, times_ms: Int64s) -> None:
        """Takes the event times int64[n] of a batch's rows; equal ones in a row, such as a request's, count once."""
        if not len(times_ms):
            return
        recent, before = self._recent, self.now_ms
        recent.add(times_ms)
        few = min(_FEWEST_EVENTS / len(recent), 1.0)
        self.newest_ms = recent.reached_ms(max(_REACHED_SHARE, few))
        self.now_ms = recent.reached_ms(max(1 / 2, few))
        if before == NO_TIME_MS:
            self.decay_ms = self.now_ms
        else:
            self.decay_ms += min(max(self.now_ms - before, 0), len(times_ms) * MAX_STEP_MS)

    def state(self) -> tuple[Int64s, dict[str, int]]:
        """The newest times, oldest first, and what :meth:`load_state` needs beside them."""
        return self._recent.times(), {name: getattr(self, name) for name in ("newest_ms", "now_ms", "decay_ms")}

    def load_state(self, times_ms: Int64s, clocks: dict[str, int]) -> None:
        """Goes on from :meth:`state`."""
        self._recent = RecentTimes(RECENT_EVENTS)
        self._recent.add(times_ms)
        for name, value in clocks.items():
            setattr(self, name, value)
