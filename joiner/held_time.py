"""How far windows may close: the engine's watermark, held back while a topic is silent as a whole.

An engine leaves what is idle out of its watermark, so that windows close without the actions that a producer holds back
meanwhile, and it never takes a watermark back. Time is held here instead, until the topic is read again: that the watermark goes
on says nothing, for a partition that comes back later than the others is not in it.
"""

from __future__ import annotations

from rillet.joiner.header import END_OF_TIME_MS, NEVER_MS


class HeldTime:
    """The time of one subtask; event times and watermarks in epoch milliseconds.

    >>> time = HeldTime(hold_ms=60_000)
    >>> time.at(100_000, held=False), time.at(130_000, held=True), time.at(190_000, held=True)
    (100000, 100000, 130000)
    >>> time.at(190_500, held=False)
    190500
    """

    def __init__(self, hold_ms: int) -> None:
        """:param hold_ms: the most by which time is behind the watermark."""
        self._hold_ms = hold_ms
        #: the last watermark that every topic was part of
        self._whole_ms = NEVER_MS

    @property
    def known(self) -> bool:
        """Whether there was a watermark that every topic was part of."""
        return self._whole_ms > NEVER_MS

    def at(self, watermark_ms: int, held: bool) -> int:
        """The time at a watermark; call it now and then, and before anything closes.

        :param held: whether a topic is silent as a whole, or was and is not read since.
        """
        if watermark_ms == END_OF_TIME_MS:
            return watermark_ms
        if held:
            return max(self._whole_ms, watermark_ms - self._hold_ms)
        self._whole_ms = max(self._whole_ms, watermark_ms)
        return watermark_ms
