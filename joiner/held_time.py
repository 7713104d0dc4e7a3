"""How far windows may close: the engine's watermark, held back while a topic is silent as a whole.

An engine leaves what is idle out of its watermark, so that windows close without the actions that a producer holds back
meanwhile, and it never takes a watermark back. Time is held here instead, until the topic is read again to its end, or
the watermark goes on with the topic in it.
"""

from __future__ import annotations

from rillet.joiner.header import END_OF_TIME_MS, NEVER_MS


class HeldTime:
    """The time of one subtask; event times and watermarks in epoch milliseconds.

    >>> time = HeldTime(hold_ms=60_000)
    >>> time.at(100_000, silent=False), time.at(130_000, silent=True), time.at(190_000, silent=True)
    (100000, 100000, 130000)

    The topic moves again. What it has held back is older than the watermark, which stands until it has caught up:

    >>> time.at(190_000, silent=False, behind=True), time.at(190_500, silent=False, behind=True)
    (130000, 190500)
    """

    def __init__(self, hold_ms: int) -> None:
        """:param hold_ms: the most by which time is behind the watermark."""
        self._hold_ms = hold_ms
        #: the last watermark that every topic was part of
        self._whole_ms = NEVER_MS
        self._held = False
        #: the watermark when the topic moved again, None before
        self._moved_at_ms: int | None = None

    @property
    def known(self) -> bool:
        """Whether there was a watermark that every topic was part of."""
        return self._whole_ms > NEVER_MS

    def at(self, watermark_ms: int, silent: bool, behind: bool = False) -> int:
        """The time at a watermark; call it now and then, and before anything closes.

        :param silent: whether a topic is silent as a whole.
        :param behind: whether a topic that was has not been read to its end since.
        """
        if watermark_ms == END_OF_TIME_MS:
            return watermark_ms
        if silent:
            self._held, self._moved_at_ms = True, None
        elif self._held:
            if self._moved_at_ms is None:
                self._moved_at_ms = watermark_ms
            self._held = behind and watermark_ms <= self._moved_at_ms
        if not self._held:
            self._whole_ms = max(self._whole_ms, watermark_ms)
            return watermark_ms
        return max(self._whole_ms, watermark_ms - self._hold_ms)
