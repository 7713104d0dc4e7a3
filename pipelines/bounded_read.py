"""How far a job that shall end at the present ends of its topics has read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.lag import GroupLag

log = logging.getLogger(__name__)

#: how long a topic has to stand still, while the others are read, until it is taken for held back
_HELD_BACK_S = 10.0


class BoundedRead:
    """Asks for the committed positions of the readers' groups; for one caller.

    :param now_s: monotonic clock, seconds.
    :raises RilletError: the broker does not answer, or lacks a topic.
    """

    def __init__(self, lag: GroupLag, now_s: Callable[[], float] = time.monotonic) -> None:
        self._lag = lag
        self._now_s = now_s
        self._ends = lag.ends()
        #: positions of what is not read to its end
        self._unread: Mapping[str, Mapping[int, int]] | None = None
        self._standing_since_s = now_s()

    @property
    def reached(self) -> bool:
        """Whether all records before the ends are committed."""
        return self._unread is not None and not self._unread

    @property
    def held_back(self) -> bool:
        """Whether one topic is read to its end, and another stands still before its own.

        Where topics are read side by side in event time, this is for good.
        """
        if not self._unread or len(self._unread) == len({topic for topic, _ in self._ends}):
            return False
        return self._now_s() - self._standing_since_s >= _HELD_BACK_S

    def refresh(self) -> None:
        """Asks the broker again; one that is away is logged."""
        try:
            unread = self._lag.unread(self._ends)
        except BrokerUnavailableError as error:
            # The job waits for the broker too.
            log.warning("how far the topics are read is not known: %s", error)
            self._standing_since_s = self._now_s()
            return
        if unread != self._unread:
            self._standing_since_s = self._now_s()
        self._unread = unread
