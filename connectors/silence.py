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
_TIMEOUT_S, _SHORTEST_TIMEOUT_S = 10.0, 2.0


class TopicState:
    """One topic as the checks find it; times in seconds of a monotonic clock.

    Time is held while it is silent, and while it moves again and is behind. It is behind until all of it is read and nothing more
    has come from one check to the next. Where traffic is dense, that never is; there it is until ``idle_s`` have
    passed, in which each partition's backlog comes, and what lies on the topic then is read. After an outage of the broker
    this alone counts: partitions come back one after the other, and in between all may be read.
    """

    def __init__(self, now_s: float, idle_s: float) -> None:
        """:param idle_s: how long nothing has to come before time may go on without records."""
        self._idle_s = idle_s
        self._found: TopicProgress | None = None
        #: since when the ends have stood
        self.since_s = now_s
        #: what the reader has to pass to have read something new; None while the topic is not silent
        self._silent_at: Mapping[int, int] | None = None
        #: since when it moves again; None where it is not behind
        self._moves_since_s: float | None = None
        #: ends up to which it has to be read then; empty before they are known
        self.awaited: Mapping[int, int] = {}
        self._was_lost = False

    def check(self, found: TopicProgress, now_s: float, *, unread: bool = False) -> None:
        """:param unread: whether a record before :attr:`awaited` is not read."""
        standing = self._found is not None and found.ends == self._found.ends
        if not standing:
            self.since_s = now_s
        self._found = found
        if self._silent_at is None:
            if found.all_read and now_s - self.since_s >= self._idle_s / 2:
                self._silent_at = found.ends
        elif self._moves(found, self._silent_at):
            self._silent_at, self._moves_since_s, self.awaited = None, now_s, {}
        if self._moves_since_s is None:
            return
        if found.all_read and standing and not self._was_lost:
            self._catch_up()
        elif self.awaited:
            if not unread:
                self._catch_up()
        elif now_s - self._moves_since_s >= self._idle_s:
            self.awaited = found.ends

    def _catch_up(self) -> None:
        self._moves_since_s, self.awaited, self._was_lost = None, {}, False

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
        if self._silent_at is None:
            self._silent_at = self._found.positions if self._found is not None else {}
        self._found, self._was_lost = None, True

    @property
    def silent(self) -> bool:
        """Whether nothing comes, or nothing is known to."""
        return self._silent_at is not None

    @property
    def behind(self) -> bool:
        """Whether it was silent, moves again, and has not been read since."""
        return self._moves_since_s is not None


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
        #: an outage has to be known before the engine leaves partitions out
        self._timeout_s = min(_TIMEOUT_S, max(_SHORTEST_TIMEOUT_S, self._idle_s / 2))
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
        if checked - since < self._idle_s or now - checked > 2 * self._interval_s + self._timeout_s:
            return None
        return int(1_000 * (checked - since))

    def silent_ms(self) -> Mapping[str, int]:
        """Topics that are silent, and for how long: of which all is read and nothing new is, or not known to be."""
        return self._silent

    def behind(self) -> bool:
        """Whether a topic that was silent moves again, and is not read: see :class:`TopicState`."""
        return self._behind

    def close(self) -> None:
        """Stops asking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s)

    def _watch(self) -> None:
        began = time.monotonic()
        topics = {name: TopicState(began, self._idle_s) for name in self._groups}
        trouble = ""
        with GroupLag(self._kafka, self._groups, timeout_s=self._timeout_s) as lag:
            while not self._stop.wait(self._interval_s):
                began = time.monotonic()
                try:
                    found = lag.progress()
                    awaited = {(name, number): end for name, t in topics.items() for number, end in t.awaited.items()}
                    unread = lag.unread(awaited) if awaited else {}
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
                        topic.check(found[name], time.monotonic(), unread=name in unread)
                    since = max(topic.since_s for topic in topics.values())
                    self._found = (began, since) if all(of.all_read for of in found.values()) else None
                    trouble = ""
                now = time.monotonic()
                # In this order: what is silent no longer is not taken for read in between.
                self._behind = any(topic.behind for topic in topics.values())
                self._silent = {name: int(1_000 * (now - t.since_s)) for name, t in topics.items() if t.silent}
