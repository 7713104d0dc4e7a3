"""Sums that halve with event time, at no cost per row: forward decay.

Instead of making every stored sum smaller as time passes, what is added later gets a larger weight, ``2**(age / half_life)``
with the age counted from a landmark; whoever reads a sum divides it by the weight of now. Every ``_SPAN`` half-lives the
landmark moves, and all sums are scaled once. Source: Cormode, Shkapenyuk, Srivastava and Xu 2009, "Forward decay".
"""

from __future__ import annotations

from collections.abc import Sequence

#: half-lives from one landmark to the next: weights up to 2**8 leave float32 its room for the sums themselves
_SPAN = 8
#: half-lives after which nothing is left of a float32
_NOTHING_LEFT = 300.0


class ForwardDecay:
    """The clock of decayed sums. Time is event time and never goes back: earlier times count as the newest.

    >>> decay = ForwardDecay(3600)
    >>> decay.advance(5 * 3_600_000), decay.weight
    (1.0, 32.0)
    >>> decay.advance(9 * 3_600_000) == 2.0**-8, decay.weight
    (True, 2.0)
    """

    def __init__(self, half_life_s: float) -> None:
        """:param half_life_s: 0 = nothing decays."""
        self.half_life_ms = round(half_life_s * 1000)
        #: -1: nothing was stored yet
        self._landmark_ms = -1
        self._newest_ms = 0

    @property
    def weight(self) -> float:
        """Of what is added now; sums are read divided by it. From 1 to 2**8."""
        if not self.half_life_ms:
            return 1.0
        return float(2.0 ** ((self._newest_ms - self._landmark_ms) / self.half_life_ms))

    def will_scale(self, now_ms: int) -> bool:
        """Whether :meth:`advance` to that time moves the landmark, so that all stored sums change."""
        if not self.half_life_ms or self._landmark_ms < 0:
            return False
        return max(self._newest_ms, now_ms) >= self._landmark_ms + _SPAN * self.half_life_ms

    def advance(self, now_ms: int) -> float:
        """Goes on to a time; returns what all stored sums must be multiplied by: 1 unless the landmark moved."""
        self._newest_ms = max(self._newest_ms, now_ms)
        if not self.half_life_ms:
            return 1.0
        span = _SPAN * self.half_life_ms
        landmark = self._newest_ms - self._newest_ms % span
        moved = 0.0 if self._landmark_ms < 0 else (landmark - self._landmark_ms) / self.half_life_ms
        self._landmark_ms = landmark
        return float(2.0 ** -min(moved, _NOTHING_LEFT))

    def state(self) -> tuple[int, int, int]:
        """Half-life, landmark and newest time, ms: all that stored sums need to be read."""
        return self.half_life_ms, self._landmark_ms, self._newest_ms

    def load_state(self, state: Sequence[int]) -> float:
        """Takes over sums stored under a :meth:`state`; returns what they must be multiplied by: 1 for the same half-life."""
        half_life_ms, landmark_ms, newest_ms = state
        stored = ForwardDecay(half_life_ms / 1000)
        stored._landmark_ms, stored._newest_ms = landmark_ms, newest_ms
        if half_life_ms == self.half_life_ms:
            self._landmark_ms, self._newest_ms = landmark_ms, newest_ms
            return 1.0
        self.advance(newest_ms)
        return self.weight / stored.weight
