"""The times of the newest requests, and what most of them have reached: one wrong clock among them moves nothing."""

from __future__ import annotations

import numpy as np

from rillet.schemas import NO_TIME_MS
from rillet.schemas.arrays import Int64s


class RecentTimes:
    """A ring of the times that were added last; equal ones in a row, such as those of one request, are kept once.

    >>> import numpy as np
    >>> recent = RecentTimes(4)
    >>> recent.add(np.array([10, 20, 20, 20, 30, 40, 86_400_000, 86_400_000]))
    >>> recent.times().tolist(), recent.reached_ms(0.75), recent.reached_ms(0.25)
    ([20, 30, 40, 86400000], 30, 86400000)
    """

    __slots__ = ("_ring", "_seen")

    def __init__(self, size: int) -> None:
        """
        :param size: times that are kept.
        """
        self._ring: Int64s = np.empty(size, np.int64)
        self._seen = 0

    def __len__(self) -> int:
        """Times that are kept."""
        return min(self._seen, len(self._ring))

    def add(self, times_ms: Int64s) -> None:
        """Keeps the last of these instead of the oldest."""
        if not len(times_ms):
            return
        size = len(self._ring)
        changed = np.flatnonzero(times_ms[1:] != times_ms[:-1])[-size:] + 1
        newest = times_ms[changed]
        if len(changed) < size and (not self._seen or times_ms[0] != self._ring[(self._seen - 1) % size]):
            newest = np.concatenate((times_ms[:1], newest))
        start = self._seen % size
        room = size - start
        self._ring[start : start + len(newest)] = newest[:room]
        self._ring[: max(len(newest) - room, 0)] = newest[room:]
        self._seen += len(newest)

    def times(self) -> Int64s:
        """All that are kept, int64[n], oldest first."""
        start = self._seen % len(self._ring) if self._seen > len(self._ring) else 0
        kept: Int64s = np.roll(self._ring[: self._seen], -start)
        return kept

    def reached_ms(self, share: float) -> int:
        """The latest time that at least this share of them have reached; ``NO_TIME_MS`` where there are none."""
        kept = self._ring[: self._seen]
        if not len(kept):
            return NO_TIME_MS
        at = int(len(kept) * (1 - share))
        return int(np.partition(kept, at)[at])
