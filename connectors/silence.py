"""Which topics are silent: nothing comes and all is read. The broker is asked, on a thread of its own.

A reader that gets nothing does not know whether there is nothing, whether the broker is away, or whether others still
have to read what there is. While one topic is silent, or not known to move, windows must not close by the other; where all
are, time may go on without records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.lag import GroupLag, TopicProgress
from rillet.schemas import RilletError

log = logging.getLogger(__name__)

_CHECKS_PER_IDLE_TIME = 4
_TIMEOUT_S = 10.0


class _Topic:
    """One topic as the checks find it; times in seconds of a monotonic clock."""

    def __init__(self, now_s: float, hold_s: float) -> None:
        self._hold_s = hold_s
        self._found: TopicProgress | None = None
        #: since when the ends have stood
        self.since_s = now_s
        #: what the reader has to pass to have read something new; None while the topic is not silent
        self._silent_at: Mapping[int, int] | None = None
        #: whether it was silent and has not been read to its end since
        self.behind = False

    def check(self, found: TopicProgress, now_s: float) -> None:
        standing = self._found is not None and found.ends == self._found.ends
        if not standing:
            self.since_s = now_s
        self._found = found
        if self._silent_at is None:
            if found.all_read and now_s - self.since_s >= self._hold_s:
                self._silent_at = found.ends
        elif self._moves(found, self._silent_at):
            self._silent_at, self.behind = None, True
        # While a producer sends what it has held back, all may be read for a moment.
        self.behind &= not (found.all_read and standing)

    @staticmethod
    def _moves(found: TopicProgress, silent_at: Mapping[int, int]) -> bool:
        """Whether every partition that something new has come to is read from again.

        That records have come is not enough: until one of theirs is read, the engine leaves partitions out, and one that
        is read first would take time past what lies on the others.
        """
        new = {number for number, end in found.ends.items() if end > silent_at.get(number, 0)}
        read = {number for number, position in found.positions.items() if position > silent_at.get(number, 0)}
        # What ends transactions lies on partitions too, and is never read.
        return bool(read) and (new <= read or found.all_read)

    def lose(self) -> None:
        """The broker is away: the reader gets nothing until it has passed where it is."""
        if self._silent_at is None and self._found is not None:
            self._silent_at = self._found.positions
        self._found = None

    @property
    def silent(self) -> bool:
        return self._silent_at is not None


class TopicSilence:
    """Watches topics, each read by one group; a stage without records, for one caller."""

    def __init__(self, kafka: KafkaConnection | str, groups: Mapping[str, str], idle_ms: int) -> None:
        """
        :param groups: topic to the consumer group that reads it.
        :param idle_ms: how long nothing has to come before time may go on without records, wall clock. A single topic
            is silent after half of it, so that this is known before its reader is idle.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._groups = dict(groups)
        self._idle_s = idle_ms / 1_000
        self._interval_s = self._idle_s / _CHECKS_PER_IDLE_TIME
        #: when the last check found all read, and since when the topics have had their ends
        self._found: tuple[float, float] | None = None
        #: how long each silent topic has been so
        self._silent: dict[str, int] = {}
        self._behind = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def start(self) -> None:
        """Starts to ask."""
        self._thread.start()

    def quiet_ms(self) -> int | None:
        """How long nothing has come, with everything read; None while that is shorter than the idle time, or not known."""
        found, now = self._found, time.monotonic()
        if found is None:
            return None
        checked, since = found
        if checked - since < self._idle_s or now - checked > 2 * self._interval_s + _TIMEOUT_S:
            return None
        return int(1_000 * (checked - since))

    def silent_ms(self) -> Mapping[str, int]:
        """Topics that are silent, and for how long: of which all is read and nothing new is, or not known to be."""
        return self._silent

    def behind(self) -> bool:
        """Whether a topic that was silent moves again, and has not been read to its end since."""
        return self._behind

    def close(self) -> None:
        """Stops asking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)

    def _watch(self) -> None:
        began = time.monotonic()
        topics = {name: _Topic(began, self._idle_s / 2) for name in self._groups}
        trouble = ""
        with GroupLag(self._kafka, self._groups, timeout_s=_TIMEOUT_S) as lag:
            while not self._stop.wait(self._interval_s):
                began = time.monotonic()
                try:
                    found = lag.progress()
                except RilletError as error:
                    # Records that come when the broker is back were sent meanwhile: silence begins anew.
                    self._found = None
                    for topic in topics.values():
                        topic.lose()
                    if str(error) != trouble:
                        trouble = str(error)
                        log.warning("whether the topics are silent is not known: %s", trouble)
                else:
                    for name, topic in topics.items():
                        topic.check(found[name], time.monotonic())
                    since = max(topic.since_s for topic in topics.values())
                    self._found = (began, since) if all(of.all_read for of in found.values()) else None
                    trouble = ""
                now = time.monotonic()
                # In this order: what is silent no longer is not taken for read in between.
                self._behind = any(topic.behind for topic in topics.values())
                self._silent = {name: int(1_000 * (now - t.since_s)) for name, t in topics.items() if t.silent}
